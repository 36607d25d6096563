"""Which of timm's backbones train at which sizes of images: forward and two training steps.

A model of each family, the smallest or nearly so, from random weights under a narrow Semantic FPN
(FCN where it has no four features), takes two training steps of two images of noise at each size in
turn, and then predicts. A run that was interrupted goes on where it was; `python
benchmarks/tables.py` writes the table in docs/backbones.md.
"""

import argparse
import json
from typing import Any

import torch
from measure import RESULTS, apart, machine, write_result
from rich.progress import track

import perpixel
from perpixel.errors import UsageError
from perpixel.models.segmenter import Segmenter
from perpixel.models.timm_backbone import TimmBackbone, check_sizes
from perpixel.recipes.schema import Recipe
from perpixel.training.step import TrainState, forward, make_train_state, train_step

SIZES = ((224, 224), (256, 320), (200, 333))
CLASSES = 5

FAMILIES = {
    "ViT": "vit_tiny_patch16_224", "DINOv2": "vit_small_patch14_dinov2",
    "DINOv3": "vit_small_patch16_dinov3", "DeiT": "deit_tiny_patch16_224",
    "EVA-02": "eva02_tiny_patch14_224", "XCiT": "xcit_nano_12_p16_224", "CaiT": "cait_xxs24_224",
    "ConViT": "convit_tiny", "gMLP": "gmlp_ti16_224", "Visformer": "visformer_tiny",
    "Swin": "swin_tiny_patch4_window7_224", "Swin V2": "swinv2_tiny_window8_256",
    "Hiera": "hiera_tiny_224", "Hiera of SAM 2": "hieradet_small", "MViTv2": "mvitv2_tiny",
    "PVTv2": "pvt_v2_b0", "Twins-PCPVT": "twins_pcpvt_small", "PoolFormer": "poolformer_s12",
    "CAFormer": "caformer_s18", "GC ViT": "gcvit_xxtiny", "MaxViT": "maxvit_tiny_tf_224",
    "CoaT": "coat_tiny", "TinyViT": "tiny_vit_5m_224", "EfficientViT": "efficientvit_b0",
    "EfficientFormer": "efficientformer_l1", "EfficientFormer V2": "efficientformerv2_s0",
    "MobileViT": "mobilevit_xxs", "MobileViT V2": "mobilevitv2_050",
    "EdgeNeXt": "edgenext_xx_small", "ConvNeXt": "convnext_atto", "ConvNeXt V2": "convnextv2_atto",
    "MambaOut": "mambaout_femto", "RepViT": "repvit_m1_1", "FastViT": "fastvit_t8",
    "SwiftFormer": "swiftformer_xs", "FasterNet": "fasternet_t0", "StarNet": "starnet_s1",
    "MobileOne": "mobileone_s0", "MobileNetV2": "mobilenetv2_050",
    "MobileNetV3": "mobilenetv3_small_050", "MobileNetV4": "mobilenetv4_conv_small",
    "EfficientNet-Lite": "efficientnet_lite0", "GhostNet": "ghostnet_050", "LCNet": "lcnet_050",
    "ReXNet": "rexnet_100", "RegNetY": "regnety_002", "ResNet-D": "resnet10t",
    "ResNeSt": "resnest14d", "DLA": "dla34", "VoVNet": "ese_vovnet19b_dw", "HGNetV2": "hgnetv2_b0",
    "HRNet": "hrnet_w18_small_v2", "CSPDarkNet": "cs3darknet_focus_s",
}  # fmt: skip


def recipe_for(name: str, *settings: str) -> Recipe:
    return perpixel.override(
        perpixel.recipe("scenes/semantic_fpn_r18"),
        ["model.backbone.type=timm", f"model.backbone.name={name}", "optimizer.name=adamw",
         "optimizer.lr=1e-4", "train.precision=float32", "train.batch_size=2", *settings],
    )  # fmt: skip


def build(name: str) -> tuple[Recipe, Segmenter]:
    """The backbone's recipe and model: Semantic FPN, or FCN where that has too few features."""
    narrow = ["model.head.channels=32"]
    try:
        recipe = recipe_for(name, *narrow, "model.head.fpn_channels=32")
        return recipe, perpixel.build(recipe, num_classes=CLASSES)
    except UsageError as error:
        if "four strides" not in str(error):
            raise
    recipe = recipe_for(name, "model.head.type=fcn", *narrow)
    return recipe, perpixel.build(recipe, num_classes=CLASSES)


def padded_to(backbone: TimmBackbone) -> int:
    """The multiple to which images are padded, by perpixel or in timm's patch embedding; else 1."""
    patches = [
        max(module.patch_size)
        for module in backbone.modules()
        if getattr(module, "dynamic_img_pad", False)
    ]
    return max(backbone.multiple, *patches, 1)


def outcome(state: TrainState, recipe: Recipe, size: tuple[int, int]) -> dict[str, Any]:
    """What came of two training steps and a prediction at `size`.

    `result` is "works", "padded", "own size only" (refused, before any training step) or "fails":
    an error, a loss, a gradient or a logit that is not finite, or no gradient in a tenth of the
    weights.
    """
    try:
        check_sizes(recipe.model.backbone, [size])
    except UsageError as error:
        return {"result": "own size only", "message": str(error)}
    model = state.model
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (2, *size), dtype=torch.uint8)
    try:
        model.train()
        steps = [train_step(state, images, labels, recipe, step=step) for step in (0, 1)]
        gradients = [parameter.grad for parameter in model.backbone.parameters()]
        still = sum(gradient is None or not gradient.any() for gradient in gradients)
        model.eval()
        with torch.inference_mode():
            logits = forward(model, images, recipe, dtype=torch.float32).logits
    except Exception as error:  # timm's own: what does not run is a result
        return {"result": "fails", "message": f"{type(error).__name__}: {error}"}
    multiple = padded_to(model.backbone)
    is_padded = any(side % multiple for side in size)
    trains = all(step.is_finite for step in steps) and still < len(gradients) / 10
    works = trains and bool(logits.isfinite().all())
    return {
        "result": ("padded" if is_padded else "works") if works else "fails",
        **({"multiple": multiple} if is_padded else {}),
        "losses": [round(step.loss, 4) for step in steps],
        "gradient_norms": [round(step.gradient_norm, 4) for step in steps],
        "without_gradient": still,
    }


def measure(name: str) -> dict[str, Any]:
    """The results of one backbone at all sizes, in a process of its own: a crash is not all's."""
    torch.manual_seed(0)
    recipe, model = build(name)
    backbone = model.backbone
    state = make_train_state(model, recipe, device=torch.device("cpu"), dtype=torch.float32)
    return {
        "backbone": name,
        "head": recipe.model.head.type,
        "strides": list(backbone.strides),
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "tensors": len(list(backbone.parameters())),
        "sizes": {f"{h}x{w}": outcome(state, recipe, (h, w)) for h, w in SIZES},
    }


def kept() -> dict[str, Any]:
    """The results of an interrupted run on this machine, by family."""
    path = RESULTS / "backbones.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    return content["families"] if content.get("machine") == machine("cpu") else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="backbones, by timm's names, anew")
    chosen = parser.parse_args()
    found = kept()
    names = {
        family: name
        for family, name in FAMILIES.items()
        if (name in chosen.only if chosen.only else family not in found)
    }
    for family, name in track(names.items()):
        found[family] = apart(measure, name)
        results = [one["result"] for one in found[family]["sizes"].values()]
        print(f"{family} ({name}): {', '.join(results)}", flush=True)
        in_order = {family: found[family] for family in FAMILIES if family in found}
        path = write_result("backbones", {"families": in_order})
    print(path if names else "all are in the file; delete it to measure them again")


if __name__ == "__main__":
    main()
