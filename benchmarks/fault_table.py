"""The faults of fault_injection.py: mistakes that would make results wrong and raise no error.

Each is one replacement in one file of the package, and the test files that must notice it. A fault
whose `old` text is no longer in its file is to be written anew for the code that took its place.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`old` occurs once in `file`, and `new` takes its place; one of `tests` must then fail."""

    name: str
    """GROUP/what goes wrong."""
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]


def _faults(file: str, tests: str, *replacements: tuple[str, str, str]) -> list[Fault]:
    """Faults of one file of the package, (name, old, new), noticed by files below tests/."""
    paths = tuple(f"tests/{test}" for test in tests.split())
    return [Fault(name, f"perpixel/{file}", old, new, paths) for name, old, new in replacements]


_DATA = [
    *_faults(
        "data/augment.py",
        "data/test_augment.py",
        (
            "data/mask not flipped with the image",
            "image, label = np.asarray(cv2.flip(image, 1), np.uint8), label[:, ::-1]",
            "image = np.asarray(cv2.flip(image, 1), np.uint8)",
        ),
        (
            "data/image and mask flipped upside down",
            "image, label = np.asarray(cv2.flip(image, 1), np.uint8), label[:, ::-1]",
            "image, label = np.asarray(cv2.flip(image, 0), np.uint8), label[::-1]",
        ),
        (
            "data/mask not rotated with the image",
            "label = np.rot90(label, window.quarter_turns)",
            "label = np.rot90(label, -window.quarter_turns)",
        ),
        (
            "data/flip only at probability 1",
            "if rng.random() < spec.flip_prob:",
            "if rng.random() < spec.flip_prob // 1:",
        ),
        (
            "data/crop never reaches the last row",
            "top = int(rng.integers(size[0] - height + 1))",
            "top = int(rng.integers(max(size[0] - height, 1)))",
        ),
        (
            "data/unlabeled pixels count as a class in the crop",
            "minlength=256)[:IGNORE_INDEX]",
            "minlength=256)",
        ),
        (
            "data/hue wraps at 256",
            "((np.arange(256) + hue) % 180)",
            "((np.arange(256) + hue) % 256)",
        ),
        (
            "data/contrast never after saturation and hue",
            "contrast_first = rng.random() < 0.5",
            "contrast_first = rng.random() < 1.0",
        ),
        ("data/padding is the first class", "value=IGNORE_INDEX)", "value=0)"),
        ("data/mask resized bilinearly", "cv2.INTER_NEAREST)", "cv2.INTER_LINEAR)"),
    ),
    *_faults(
        "data/window.py",
        "data/test_window.py",
        (
            "data/crop of the mask one pixel off",
            "positions = np.arange(start, start + length)",
            "positions = np.arange(start + 1, start + length + 1)",
        ),
    ),
    *_faults(
        "data/dataset.py",
        "data/test_dataset.py",
        (
            "data/unknown mask values ignored",
            "np.full(MAX_ID + 1 - MIN_ID, UNKNOWN, np.uint8)",
            "np.full(MAX_ID + 1 - MIN_ID, IGNORE_INDEX, np.uint8)",
        ),
    ),
    *_faults(
        "data/loader.py",
        "data/test_loader.py",
        (
            "data/same order in every epoch",
            "np.random.default_rng((seed, epoch)).permutation(samples)",
            "np.random.default_rng(seed).permutation(samples)",
        ),
        (
            "data/every rank takes the first share",
            "firsts = range(rank * size, len(stream), world_size * size)",
            "firsts = range(0, len(stream), world_size * size)",
        ),
    ),
    *_faults(
        "data/cache.py",
        "data/test_cache.py",
        (
            "data/cached rows begin at the wrong byte",
            "file.seek(_HEADER.size + first * header.width * header.channels)",
            "file.seek(_HEADER.size + first * header.width)",
        ),
    ),
    *_faults(
        "data/datasets/camvid.py",
        "data/test_camvid.py data/test_miniatures.py",
        ("data/CamVid's void is bicyclist", "11: IGNORE_INDEX}", "11: 10}"),
        (
            "data/CamVid's other vegetation is signs",
            "808000 c0c000: Tree, VegetationMisc\n    c08080",
            "808000: Tree, VegetationMisc\n    c0c000 c08080",
        ),
    ),
    *_faults(
        "data/datasets/cityscapes.py",
        "data/test_miniatures.py data/test_submission.py",
        ("data/Cityscapes' trailer is train", "27, 28, 31, 32, 33)", "27, 28, 30, 32, 33)"),
        ("data/Cityscapes' persons and riders swapped", "23, 24, 25, 26", "23, 25, 24, 26"),
    ),
    *_faults(
        "data/datasets/pascal_voc.py",
        "data/test_miniatures.py",
        ("data/VOC's borders are background", "255: IGNORE_INDEX})", "255: 0})"),
        (
            "data/VOC's trainaug holds val's images",
            'for name in _voc_masks(voc, "val"):',
            'for name in _voc_masks(voc, "train"):',
        ),
    ),
    *_faults(
        "data/datasets/ade20k.py",
        "data/test_miniatures.py",
        ("data/ADE20K's unlabeled pixels are wall", "ids={0: IGNORE_INDEX,", "ids={0: 0,"),
    ),
    *_faults(
        "data/submission.py",
        "data/test_submission.py",
        ("data/ADE20K's submissions count from 0", "tuple(range(1, 151))", "tuple(range(150))"),
    ),
    *_faults(
        "io/images.py",
        "io/test_images.py inference/test_predictor.py",
        ("data/images in BGR", "= cv2.IMREAD_COLOR_RGB\n", "= cv2.IMREAD_COLOR_BGR\n"),
        (
            "data/orientation tag ignored",
            "    if not apply_exif_orientation:\n        flags",
            "    if apply_exif_orientation:\n        flags",
        ),
        (
            "data/palette masks read as gray",
            '_PLAIN_MODES = {"LA"',
            '_PLAIN_MODES = {"P": "L", "LA"',
        ),
    ),
]

_EVALUATION = [
    *_faults(
        "evaluation/metrics.py",
        "evaluation/test_metrics.py",
        (
            "evaluation/confusion transposed",
            "for mask in (label, prediction)]",
            "for mask in (prediction, label)]",
        ),
        (
            "evaluation/ignored pixels count as the first class",
            "np.ascontiguousarray(mask[top : top + step])",
            "np.ascontiguousarray(mask[top : top + step] % 255)",
        ),
        (
            "evaluation/absent class counts as 0 in the means",
            "known = [value for value in values if value is not None]",
            "known = [value or 0.0 for value in values]",
        ),
        (
            "evaluation/mIoU is the images' mean",
            "miou=_mean(iou) or 0.0,",
            "miou=_mean([single.miou for single in singles]) or 0.0,",
        ),
        (
            "evaluation/IoU weighted by predictions",
            "for value, count in zip(iou, labeled, strict=True))",
            "for value, count in zip(iou, predicted, strict=True))",
        ),
        (
            "evaluation/precision is recall",
            "precision=by_class(_ratio(correct, predicted)),",
            "precision=by_class(_ratio(correct, labeled)),",
        ),
    ),
    *_faults(
        "evaluation/files.py",
        "evaluation/test_metrics.py",
        (
            "evaluation/confusion.csv transposed",
            "scores.confusion.tolist()",
            "scores.confusion.T.tolist()",
        ),
    ),
    *_faults(
        "evaluation/boundary.py",
        "evaluation/test_boundary.py",
        (
            "evaluation/boundary width from the longer side",
            "distance * math.hypot(*label.shape)",
            "distance * max(label.shape)",
        ),
    ),
    *_faults(
        "evaluation/evaluate.py",
        "evaluation/test_evaluate.py evaluation/test_ranks_share.py",
        (
            "evaluation/ranks' counts averaged",
            "distributed.all_reduce_sum(torch.from_numpy(part).to(device)).cpu()",
            "(distributed.all_reduce_sum(torch.from_numpy(part).to(device)).cpu()"
            " // dist_info.world_size)",
        ),
        (
            "evaluation/images that ranks do not share evenly left out",
            "range(dist_info.rank, len(dataset), dist_info.world_size)",
            "range(dist_info.rank, len(dataset) // dist_info.world_size * dist_info.world_size,"
            " dist_info.world_size)",
        ),
        (
            "evaluation/dropout on",
            "predictor.model.eval()",
            "predictor.model.train()",
        ),
        (
            "evaluation/an image's scores are those of all until then",
            "images[index] = areas(counts)",
            "images[index] = areas(matrix)",
        ),
        (
            "evaluation/only the first image of a batch has a boundary IoU",
            "if boundary:\n                    borders",
            "if boundary and index == group[0][0]:\n                    borders",
        ),
    ),
    *_faults(
        "api.py",
        "evaluation cli/test_commands.py",
        (
            "evaluation/scored on the training split",
            "split or chosen.eval_split",
            "split or chosen.train_split",
        ),
    ),
]

_INFERENCE = [
    *_faults(
        "inference/tta.py",
        "inference/test_sliding_window.py inference/test_geotiff.py",
        (
            "inference/flipped logits not flipped back",
            "across = ResizeWeights(across.small, across.first.flip(0), across.weights.flip(0))",
            "across = ResizeWeights(across.small, across.first, across.weights)",
        ),
        (
            "inference/flipped windows not flipped back",
            "other(top, bottom).flip(1)",
            "other(top, bottom)",
        ),
        (
            "inference/align_corners ignored",
            "twice=twice, align_corners=recipe.model.align_corners)",
            "twice=twice, align_corners=False)",
        ),
        (
            "inference/align_corners ignored from a scale to the image",
            "resize_weights(small, large, align_corners=recipe.model.align_corners)",
            "resize_weights(small, large, align_corners=False)",
        ),
        (
            "inference/padding not cut off",
            "inner = crop_output(resize_weights(coarse, padded, align_corners=align_corners), "
            "resized)",
            "inner = resize_weights(coarse, resized, align_corners=align_corners)",
        ),
        (
            "inference/scales average logits and probabilities swapped",
            'recipe.inference.tta_average == "logits"',
            'recipe.inference.tta_average == "probabilities"',
        ),
        (
            "inference/logits never resized twice",
            "twice = recipe.inference.resize_logits_twice or ",
            "twice = ",
        ),
        (
            "inference/images not fitted into base_size",
            "box=recipe.inference.base_size)",
            "box=None)",
        ),
        (
            "inference/mask of the resized size",
            "image_size = images[0].shape[0], images[0].shape[1]",
            "image_size = recipe.data.resize or (images[0].shape[0], images[0].shape[1])",
        ),
    ),
    *_faults(
        "inference/sliding_window.py",
        "inference/test_sliding_window.py",
        (
            "inference/overlaps not divided by their weights",
            "return total.div_((whole_down[top:bottom, None] * whole_across)[..., None])",
            "return total",
        ),
        (
            "inference/align_corners ignored in windows",
            "align_corners=recipe.model.align_corners), full\n",
            "align_corners=False), full\n",
        ),
    ),
    *_faults(
        "models/normalize.py",
        "inference/test_sliding_window.py parity/test_models.py",
        (
            "inference/channel order swapped",
            'if spec.channel_order == "bgr":',
            'if spec.channel_order == "rgb":',
        ),
    ),
    *_faults(
        "inference/predictor.py",
        "inference/test_predictor.py inference/test_sliding_window.py",
        (
            "inference/masks of a size in reverse order",
            "zip(group, size_masks, strict=True)",
            "zip(group, size_masks[::-1], strict=True)",
        ),
    ),
    *_faults(
        "inference/video.py",
        "inference/test_video.py",
        (
            "inference/video's frames in BGR",
            "np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), np.uint8)",
            "np.asarray(read[1], np.uint8)",
        ),
        (
            "inference/video's overlay in RGB",
            "cv2.cvtColor(result.overlay(), cv2.COLOR_RGB2BGR)",
            "result.overlay()",
        ),
    ),
    *_faults(
        "inference/geotiff.py",
        "inference/test_geotiff.py",
        (
            "inference/GeoTIFF's bands in BGR",
            "((1, 2, 3) if",
            "((3, 2, 1) if",
        ),
    ),
    *_faults(
        "io/images.py",
        "io/test_images.py",
        (
            "inference/overlay's opacity inverted",
            "cv2.addWeighted(image, 1 - opacity, colorize(mask, palette), opacity, 0)",
            "cv2.addWeighted(image, opacity, colorize(mask, palette), 1 - opacity, 0)",
        ),
    ),
]

_MODELS = [
    *_faults(
        "models/resnet.py",
        "models/test_models.py parity/test_models.py",
        ("models/stage 4's dilation lost", "dilation *= 2", "dilation = 2"),
        (
            "models/stride never in the 1x1 convolution",
            "(stride, 1) if stride_in_1x1 else (1, stride)",
            "(1, stride)",
        ),
    ),
    *_faults(
        "acceleration/fuse_conv_bn.py",
        "acceleration/test_fuse_conv_bn.py",
        (
            "models/fused without the batch norm's eps",
            "(variance.double() + norm.eps).sqrt()",
            "variance.double().sqrt()",
        ),
    ),
    *_faults(
        "models/layers.py",
        "models/test_models.py parity/test_models.py",
        ("models/frozen batch norm's eps", "eps = 1e-5", "eps = 1e-3"),
        (
            "models/dropout of values where channels are asked for",
            'if type == "channel" else nn.Dropout(p)',
            'if type == "element" else nn.Dropout(p)',
        ),
    ),
    *_faults(
        "models/fcn.py",
        "models/test_models.py parity",
        (
            "models/FCN's dropout rate ignored",
            "dropout(spec.dropout, type=",
            "dropout(0.5, type=",
        ),
        (
            "models/FCN's dropout after the classifier",
            "self.classifier(self.dropout(output))",
            "self.dropout(self.classifier(output))",
        ),
    ),
    *_faults(
        "models/semantic_fpn.py",
        "models/test_models.py parity/test_models.py conversion/test_tables.py",
        ("models/FPN's dropout rate ignored", "nn.Dropout2d(spec.dropout)", "nn.Dropout2d(0.5)"),
        (
            "models/FPN's align_corners ignored",
            "self._align_corners = align_corners",
            "self._align_corners = False",
        ),
    ),
    *_faults(
        "models/build.py",
        "models/test_models.py",
        ("models/initial weights by fan-in", 'mode="fan_out"', 'mode="fan_in"'),
        ("models/initial classifiers ten times as wide", "std=0.01", "std=0.1"),
        (
            "models/neck's initial weights are the others'",
            "elif module.bias is not None:\n                    nn.init.xavier",
            "elif module.bias is None:\n                    nn.init.xavier",
        ),
    ),
]

_CONVERSION = [
    *_faults(
        "conversion/detect.py",
        "conversion/test_tables.py conversion/test_convert.py parity/test_models.py",
        (
            "conversion/running means not copied",
            "{n: tensors[toolkit_names[n]] for n in expected}",
            '{n: tensors[toolkit_names[n]] * (n[-4:] != "mean") for n in expected}',
        ),
        (
            "conversion/align_corners not taken over",
            "    if align_corners is None:\n        align_corners",
            "    if True:\n        align_corners",
        ),
    ),
    *_faults(
        "conversion/export_.py",
        "conversion/test_tables.py conversion/test_convert.py",
        (
            "conversion/auxiliary head dropped",
            "for name, tensor in weights.items()}",
            'for name, tensor in weights.items() if name[:4] != "auxi"}',
        ),
    ),
    *_faults(
        "conversion/detectron2.py",
        "conversion/test_convert.py conversion/test_tables.py parity/test_models.py",
        ("conversion/detectron2's images in RGB", 'channel_order="bgr"', 'channel_order="rgb"'),
    ),
    *_faults(
        "conversion/sssegmentation.py",
        "conversion/test_convert.py conversion/test_tables.py parity/test_models.py",
        (
            "conversion/sssegmentation averages probabilities",
            'average="logits"',
            'average="probabilities"',
        ),
    ),
    *_faults(
        "conversion/mmseg.py",
        "conversion/test_convert.py conversion/test_tables.py parity/test_models.py",
        (
            "conversion/mmseg's logits resized once",
            "resize_logits_twice=True",
            "resize_logits_twice=False",
        ),
    ),
    *_faults(
        "conversion/import_.py",
        "conversion",
        (
            "conversion/file's mean and std not taken over",
            "input=finding.input or _usual_input(finding, dataset),",
            "input=_usual_input(finding, dataset),",
        ),
        (
            "conversion/recipe's mean and std before the file's",
            '"input": finding.input or recipe.input}',
            '"input": recipe.input}',
        ),
        (
            "conversion/file's colors lost",
            "return Classes(names, palette),",
            "return Classes(names, distinct_palette(count)),",
        ),
    ),
]

_CHECKPOINT = [
    *_faults(
        "checkpoints/format.py",
        "checkpoints/test_format.py",
        (
            "checkpoint/normalization not kept",
            "return Checkpoint(\n        header.recipe,",
            "return Checkpoint(\n"
            '        header.recipe.model_copy(update={"input": type(header.recipe.input)()}),',
        ),
        (
            "checkpoint/palette lost",
            "header.class_names, header.palette,",
            "header.class_names, ((0, 0, 0),) * len(header.class_names),",
        ),
        ("checkpoint/step lost", "weights, header.step,", "weights, 0,"),
    ),
]

_EXPORT = [
    *_faults(
        "exporting/graph.py",
        "exporting/test_export.py",
        (
            "export/graph takes pixels as they are",
            "pixel_values = normalize(pixels, recipe.input)",
            "pixel_values = pixels.permute(0, 3, 1, 2).float()",
        ),
        (
            "export/align_corners ignored",
            "align_corners=recipe.model.align_corners",
            "align_corners=False",
        ),
        (
            "export/images not resized",
            "pixels = resize_as_opencv(images, resized)",
            "pixels, resized = images, size",
        ),
        (
            "export/dynamic sizes fixed",
            "(example,), dynamic_shapes=(dims,))",
            "(example,), dynamic_shapes=None)",
        ),
    ),
    *_faults(
        "exporting/export.py",
        "exporting/test_export.py",
        (
            "export/palette not in the file",
            '"palette": readable_palette(checkpoint.palette),',
            '"palette": [],',
        ),
        ("export/agreement not required", "    _require_agreement(out, comparisons, EXACT)\n", ""),
        (
            "export/file's input is the default one",
            '"input": recipe.input.model_dump',
            '"input": type(recipe.input)().model_dump',
        ),
    ),
    *_faults(
        "exporting/check.py",
        "exporting/test_export.py",
        (
            "export/masks or logits must agree, not both",
            "self.agreement >= limits.agreement and self.difference",
            "self.agreement >= limits.agreement or self.difference",
        ),
        (
            "export/file compared with itself",
            "run_file(inputs), run_torch(inputs)[-1]",
            "run_file(inputs), run_file(inputs)[-1]",
        ),
        (
            "export/file's masks compared with themselves",
            "same = mask == predictor.predict(image).mask",
            "same = mask == mask",
        ),
    ),
]

_SERVING = [
    *_faults(
        "serving/pool.py",
        "serving/test_app.py serving/test_answers.py",
        (
            "serving/images in BGR",
            "._predictor.bands,\n            )\n            body",
            "._predictor.bands,\n            )[..., ::-1].copy()\n            body",
        ),
        (
            "serving/mask of half the image's size",
            "._predictor.bands,\n            )\n            body",
            "._predictor.bands,\n            )[::2, ::2].copy()\n            body",
        ),
        (
            "serving/pixels not limited",
            "if pixels > self._limits.max_pixels:",
            "if pixels > 2 * self._limits.max_pixels:",
        ),
    ),
    *_faults(
        "serving/app.py",
        "serving/test_app.py",
        (
            "serving/bytes that were not announced not limited",
            "if received > limits.max_bytes:",
            "if received > 2 * limits.max_bytes:",
        ),
    ),
    *_faults(
        "serving/answers.py",
        "serving/test_answers.py serving/test_app.py",
        ("serving/run lengths row by row", 'inside.ravel(order="F")', "inside.ravel()"),
    ),
]

_LOSSES = [
    *_faults(
        "losses.py",
        "test_losses.py",
        (
            "losses/Dice without squares",
            "((probabilities**2).sum(dim=0) + area)",
            "(probabilities.sum(dim=0) + area)",
        ),
        (
            "losses/class weights not applied",
            "pixels = pixels * weights[labels.where(known, 0).long()]",
            "pixels = pixels * weights.sign()[labels.where(known, 0).long()]",
        ),
        (
            "losses/class weights not in the mean",
            "= weights.new_tensor(spec.class_weights)",
            "= 1",
        ),
        ("losses/OHEM's threshold ignored", ".clamp(min=spec.threshold))", ")"),
        (
            "losses/Lovasz from the smallest error on",
            ".abs().sort(descending=True)",
            ".abs().sort()",
        ),
        (
            "losses/align_corners ignored in Dice and Lovasz",
            'mode="bilinear", align_corners=align_corners)',
            'mode="bilinear", align_corners=False)',
        ),
    ),
    *_faults(
        "ops/fused_cross_entropy.py",
        "ops/test_fused_cross_entropy.py test_losses.py",
        (
            "losses/label smoothing of the wrong sign",
            "label_logit.lerp_(full.mean(dim=1), smoothing)",
            "label_logit.lerp_(full.mean(dim=1), -smoothing)",
        ),
    ),
    *_faults(
        "training/step.py",
        "parity/test_training.py",
        (
            "losses/auxiliary weight ignored",
            "loss = loss + recipe.loss.aux_weight * segmentation_loss(",
            "loss = loss + segmentation_loss(",
        ),
    ),
]

_OPTIMIZER = [
    *_faults(
        "training/optimizer.py",
        "parity/test_optimizer.py training/test_schedule.py",
        (
            "optimizer/weight decay on no weight",
            "spec.weight_decay if decayed else 0.0",
            "0.0 if decayed else 0.0",
        ),
        (
            "optimizer/norms and biases never decayed",
            "spec.decay_norm_and_bias or parameter.ndim > 1",
            "parameter.ndim > 1",
        ),
        (
            "optimizer/the same rate in every layer",
            "spec.layer_decay ** depths.get(name, 0)",
            "1",
        ),
        (
            "optimizer/warm-up from zero",
            "warm = 1 - left_to_warm * (1 - schedule.warmup_from)",
            "warm = 1 - left_to_warm",
        ),
        (
            "optimizer/norms and biases always decayed",
            "spec.decay_norm_and_bias or parameter.ndim > 1",
            "True",
        ),
        (
            "optimizer/backbone_lr_mult ignored",
            'spec.backbone_lr_mult if name.startswith("backbone.") else 1.0',
            "1.0",
        ),
        ("optimizer/momentum ignored", "momentum=spec.momentum", "momentum=0.0"),
        ("optimizer/betas ignored", "betas=spec.betas, ", ""),
        ("optimizer/warmup ignored", "return warm * (", "return 1.0 * ("),
    ),
]

_TRAINING = [
    *_faults(
        "api.py",
        "training/test_learning.py training/test_run.py",
        (
            "training/evaluated on the training split",
            "splits = recipe.data.train_split, recipe.data.eval_split",
            "splits = recipe.data.train_split, recipe.data.train_split",
        ),
    ),
    *_faults(
        "runtime/dtype.py",
        "training/test_learning.py",
        (
            "training/cast weights kept by a program's autocast",
            "enabled=dtype != torch.float32, cache_enabled=False",
            "enabled=dtype != torch.float32",
        ),
    ),
    *_faults(
        "data/loader.py",
        "data/test_loader.py",
        (
            "training/same augmentation in every epoch",
            "np.random.default_rng((seed, epoch, position))",
            "np.random.default_rng((seed, position))",
        ),
    ),
    *_faults(
        "acceleration/accelerate.py",
        "training/test_learning.py",
        (
            "training/batch norm in evaluation mode",
            "to_device(model, device).train(training)",
            "to_device(model, device).eval()",
        ),
    ),
    *_faults(
        "training/step.py",
        "training/test_learning.py",
        (
            "training/no autocast",
            "with autocast(inputs[0].device, dtype):",
            "with autocast(inputs[0].device, torch.float32):",
        ),
        (
            "training/same dropout in every step",
            "dropout_seed(recipe.train.seed, step, batch.number)",
            "dropout_seed(recipe.train.seed, 0, batch.number)",
        ),
        (
            "training/EMA never updated",
            "update_ema(state.ema_model, model, step=step, ema=recipe.train.ema_decay)",
            "pass",
        ),
        (
            "training/only the last micro-batch's gradient kept",
            "torch.autograd.backward(scaler.scale(batch_loss))",
            "optimizer.zero_grad(set_to_none=True)\n"
            "            torch.autograd.backward(scaler.scale(batch_loss))",
        ),
        (
            "training/loss scale never lowered",
            "    scaler.update()\n",
            "    scaler.update(65536.0)\n",
        ),
        (
            "training/gradients not unscaled",
            "    scaler.unscale_(optimizer)\n",
            "",
        ),
    ),
    *_faults(
        "training/freeze.py",
        "training/test_freeze.py",
        (
            "training/frozen batch norms follow the images",
            "module.eval().requires_grad_(False)",
            "module.requires_grad_(False)",
        ),
    ),
    *_faults(
        "training/checkpoint.py",
        "training/test_early_end.py",
        (
            "training/patience begins anew when resumed",
            '_NO_PROGRESS = ("fingerprint", "scaler")',
            '_NO_PROGRESS = ("fingerprint", "scaler", "evaluations_since_best")',
        ),
    ),
    *_faults(
        "training/checkpoint.py",
        "training/test_learning.py",
        (
            "training/loss scale not resumed",
            "if header.scaler and",
            "if not header.scaler and",
        ),
    ),
    *_faults(
        "training/feature_cache.py",
        "training/test_feature_cache.py",
        (
            "training/cached features of other weights",
            "content_sha256(settings, weights)",
            "content_sha256(settings, {})",
        ),
        (
            "training/cached features of another precision",
            "with autocast(images.device, state.dtype):",
            "with autocast(images.device, torch.float32):",
        ),
    ),
    *_faults(
        "training/train.py",
        "training/test_learning.py training/test_run.py",
        (
            "training/best weights never written",
            'write_checkpoint(out / "checkpoints" / "best.safetensors", best)',
            "pass",
        ),
        (
            "training/learning rate never set",
            "set_learning_rate(state.optimizer, lr)",
            "pass",
        ),
    ),
]

FAULTS = (
    *_DATA,
    *_EVALUATION,
    *_INFERENCE,
    *_MODELS,
    *_CONVERSION,
    *_CHECKPOINT,
    *_EXPORT,
    *_SERVING,
    *_LOSSES,
    *_OPTIMIZER,
    *_TRAINING,
)
