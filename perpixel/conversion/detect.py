"""Finds the model of another toolkit's state dict."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perpixel.checkpoints.format import mismatches
from perpixel.conversion.caffe import CAFFE, plain_names, pop_scales
from perpixel.conversion.detectron2 import DETECTRON2
from perpixel.conversion.dinov2 import DINOV2
from perpixel.conversion.imagenet import IMAGENET_FILES
from perpixel.conversion.mmseg import MMSEG
from perpixel.conversion.names import NameMap, to_perpixel_names, to_toolkit_names
from perpixel.conversion.sssegmentation import SSSEGMENTATION
from perpixel.conversion.structure import Shapes, is_pyramid, read_model
from perpixel.conversion.toolkit import Toolkit
from perpixel.conversion.torchvision import PYTORCH_AUTO_DRIVE, TORCHVISION
from perpixel.conversion.trunks import Trunk, backbone_of, timm_name, trunk_of
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import (
    FCN,
    FCNSkip,
    Model,
    SemanticFPN,
    Timm,
    backbone_name,
    method_name,
)
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX, Input

TOOLKITS = {
    toolkit.name: toolkit
    for toolkit in (
        MMSEG,
        SSSEGMENTATION,
        PYTORCH_AUTO_DRIVE,
        TORCHVISION,
        DETECTRON2,
        CAFFE,
        DINOV2,
    )
}

_CLASSIFICATION = ("fc.weight", "fc1000_w", "fc8.weight")  # torchvision, open-mmlab; Caffe2; Caffe
_COUNTER = "num_batches_tracked"
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_FIRST_BLOCK = re.compile(  # or head, by the toolkits' names, and what comes before them
    r"((?:[^.]+\.)*?)(?:(?:(?:backbone\.|backbone_net\.)?layer1|backbone\.bottom_up\.res2)"
    r"\.0\.conv1|fc6|decode_head\.conv_seg)\.weight"
)


@dataclass(frozen=True)
class Finding:
    """The model of a state dict, and its weights under our names, float32.

    `input` is None unless the state dict itself holds mean and std (detectron2's of 2020).
    `left_out` are the state dict's entries beside the model's. The source tests on images stretched
    to multiples of `resize_to_multiple`.
    """

    toolkit: Toolkit
    model: Model
    num_classes: int
    weights: Mapping[str, Tensor]
    input: Input | None = None
    left_out: tuple[str, ...] = ()
    resize_to_multiple: int = 1


def from_state_dict(
    state: Mapping[str, Any],
    toolkit: str = "auto",
    output_stride: int | None = None,
    align_corners: bool | None = None,
    threshold: float | None = None,
    variant: str | None = None,
) -> Segmenter:
    """Builds the model of another toolkit's state dict with its weights, in evaluation mode.

    state: {name: tensor or NumPy array}; what stands before all names of the model ("module.",
    "model.") is ignored, half precision becomes float32. toolkit: "mmseg", "sssegmentation",
    "torchvision", "pytorch-auto-drive", "detectron2", "caffe" (the original FCN, and pytorch-fcn),
    or "auto" to detect it by the names (those of torchvision without an auxiliary head are taken
    for pytorch-auto-drive's). output_stride: 8, 16 or 32; None is 8 for FCN and 32 for Semantic
    FPN. align_corners: None is the toolkit's default, True for pytorch-auto-drive alone. The
    model's `spec` holds both.
    threshold: needed for a model of one output x, whose class 1 is where sigmoid(x) > threshold.
    The model then has two outputs, the constant log(threshold / (1 - threshold)) and x: their
    argmax is that class. Averages over scales and flips equal the toolkit's at 0.5 alone.
    variant: "staged" or "atonce", how an FCN-8s of "caffe" was trained: the latter scales pool4 and
    pool3, under the same names and shapes.
    Raises UsageError for a wrong argument, PerpixelError for a state dict that fits no model,
    listing every name that is missing or unexpected.
    """
    return build_model(
        find(
            state,
            toolkit=toolkit,
            output_stride=output_stride,
            align_corners=align_corners,
            threshold=threshold,
            variant=variant,
        )
    )


def build_model(finding: Finding) -> Segmenter:
    """Builds the model that `find` found, with its weights, in evaluation mode."""
    with torch.device("meta"):  # no memory, and no random numbers drawn from the caller's stream
        model = build(finding.model, num_classes=finding.num_classes)
    model.load_state_dict(dict(finding.weights), assign=True)
    return model.eval()


def find(
    state: Mapping[str, Any],
    *,
    toolkit: str = "auto",
    output_stride: int | None = None,
    align_corners: bool | None = None,
    threshold: float | None = None,
    variant: str | None = None,
    like: Model | None = None,
    backbone: Mapping[str, Tensor] | None = None,
) -> Finding:
    """Finds toolkit, model, weights and input of a state dict; raises as `from_state_dict`.

    What names and shapes do not tell (dilations, dropout, ...) is taken from `like`, else from the
    toolkit's own models. `backbone`, by our names, completes a file that holds a head alone.
    """
    names_of_model = model_names(state)
    tensors = plain_tensors(state, names_of_model)
    source = _choose_toolkit(toolkit, tensors)
    file_input = None
    if source.mean_std_names is not None and all(n in tensors for n in source.mean_std_names):
        mean, std = (tuple(tensors.pop(n).flatten().tolist()) for n in source.mean_std_names)
        file_input = source.input.model_copy(update={"mean": mean, "std": std})
    left_out = [str(key) for key in state if key not in names_of_model]
    skip_scales = None
    if source is CAFFE:
        tensors, geometric = plain_names(tensors)
        left_out += geometric
        if threshold is not None:
            raise UsageError("a threshold is not for the original FCN, whose borders are zeros")
        skip_scales = pop_scales(tensors, variant, like)
    elif variant is not None:
        raise UsageError(f"variant={variant!r} is of caffe's FCN-8s, and this is {source.name}'s")
    name_map, trunk = source.name_map, trunk_of(tensors)
    if trunk is not None:
        if trunk.prepare is not None:
            trunk.prepare(tensors)
        heads = (row for row in name_map if not row[1].startswith("backbone."))
        name_map = (*trunk.rows(tensors), *heads)
    if source.head_alone and backbone is None:
        raise UsageError(
            f"this is a head of {source.name}'s alone: name the file of the backbone that it was "
            f"trained on, as with `perpixel convert HEAD OUT --recipe NAME --backbone FILE`"
        )
    if backbone is not None and not source.head_alone:
        raise UsageError(f"these are {source.name}'s names, of a whole model: give no backbone")
    names = to_perpixel_names(name_map, tensors)
    shapes = {name: tuple(tensors[toolkit_name].shape) for toolkit_name, name in names.items()}
    example = _example(source, shapes, like, trunk)
    example = _with_arguments(example, output_stride, align_corners, skip_scales)
    model, num_classes = read_model(shapes, example)

    if num_classes >= IGNORE_INDEX:
        raise PerpixelError(f"{num_classes} classes; masks hold at most {IGNORE_INDEX - 1}")
    if num_classes == 1 and threshold is None:
        raise PerpixelError(
            "a model of one output x, whose class 1 is where sigmoid(x) > T: say T, as with "
            "`perpixel convert --threshold 0.3` (the default of mmsegmentation, whose config may "
            "say another; most others use 0.5)"
        )
    if num_classes != 1 and threshold is not None:
        raise UsageError("a threshold is for models of one output, and this one has more")
    with torch.device("meta"):
        expected = build(model, num_classes=num_classes).state_dict()
    if backbone is not None:
        problems = mismatches(_backbone_in(expected), backbone)
        if problems:
            raise PerpixelError(
                f"the backbone does not fit {title(model)}:\n  " + "\n  ".join(problems)
            )
        expected = {name: value for name, value in expected.items() if name not in backbone}
    toolkit_names = _toolkit_names(name_map, expected)
    # Files of before 2018 have no counters, which only momentum=None would use.
    for name in toolkit_names.values():
        if name.endswith(_COUNTER) and name not in tensors:
            tensors[name] = torch.zeros((), dtype=torch.int64)
    problems = mismatches({toolkit_names[name]: expected[name] for name in expected}, tensors)
    if problems:
        raise PerpixelError(
            f"these are {source.name}'s names, but they do not fit its nearest model, "
            f"{title(model)} ({len(problems)} mismatches):\n  " + "\n  ".join(problems)
        )
    weights = {**(backbone or {}), **{n: tensors[toolkit_names[n]] for n in expected}}
    if threshold is not None:
        weights, num_classes = _with_constant_output(weights, threshold), 2
    return Finding(
        source,
        model,
        num_classes,
        weights,
        input=file_input,
        left_out=tuple(left_out),
        resize_to_multiple=1 if trunk is None else trunk.resize_to_multiple,
    )


def _backbone_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("backbone.")}


def _with_constant_output(weights: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Puts an output that is the threshold's logit before the only one, in both heads."""
    if not 0 < threshold < 1:
        raise UsageError(f"threshold={threshold}: a sigmoid's threshold is between 0 and 1")
    two_outputs = dict(weights)
    for parameter, value in (("weight", 0.0), ("bias", math.log(threshold / (1 - threshold)))):
        for name in (f"head.classifier.{parameter}", f"auxiliary.classifier.{parameter}"):
            if name in weights and len(weights[name]) == 1:
                row = torch.full_like(weights[name], value)
                two_outputs[name] = torch.cat([row, weights[name]])
    return two_outputs


def is_toolkit_model(state: Mapping[str, Any]) -> bool:
    """Returns whether `find` may take a state dict: it has head and backbone by a toolkit's names.

    A head alone does not tell: torchvision's MobileNetV2 has a "classifier.1", too.
    """
    names = list(model_names(state).values())
    parts = (
        {ours.partition(".")[0] for ours in to_perpixel_names(toolkit.name_map, names).values()}
        for toolkit in TOOLKITS.values()
    )
    return any({"backbone", "head"} <= found for found in parts)


def is_published_model(state: Mapping[str, Any]) -> bool:
    """Returns whether a state dict is a whole published model on one of timm's backbones."""
    names = list(model_names(state).values())
    return trunk_of(names) is not None and bool(_with_head(names))


def backbone_weights(
    state: Mapping[str, Any], names: Iterable[str], backbone: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns a backbone's weights as our "backbone.*", and the names of what is left out.

    `names` are those of the backbone's module. The state dict has them, or those of the timm model
    whose features the backbone gives, behind any prefix; for a ResNet they are torchvision's,
    timm's and open-mmlab's (v1c). For the timm model `backbone` they may also be those of one of
    IMAGENET_FILES. What else there is, as a classifier or a decoder, is left out. Raises
    PerpixelError where no weights of the backbone are there, or all twice.
    """
    name_of_timm = {timm_name(name): name for name in names}
    modules = {name.partition(".")[0] for name in name_of_timm}
    is_part = any(name.startswith("body.") for name in name_of_timm.values())  # timm's features
    anchor = max(name_of_timm, key=lambda name: name.count("."))
    pattern = re.compile(rf"((?:[^.]+\.)*?){re.escape(anchor)}")
    theirs = model_names(state, pattern, without_dot=name_of_timm)
    if anchor not in theirs.values():
        theirs = _imagenet_file_names(state, name_of_timm, backbone)
    if anchor not in theirs.values():
        raise PerpixelError(
            f"no weights of the backbone in it: its names begin with {first_few(state)}, and the "
            f"backbone's are such as {anchor}"
        )
    # What else its modules hold, as of a deeper ResNet, is taken too: it will not fit, and say so.
    taken = {
        key: f"backbone.{name_of_timm.get(name, name)}"
        for key, name in theirs.items()
        if name in name_of_timm or (name.partition(".")[0] in modules and not is_part)
    }
    return plain_tensors(state, taken), [key for key in state if key not in taken]


def _imagenet_file_names(
    state: Mapping[str, Any], timm_names: Iterable[str], backbone: str
) -> dict[str, str]:
    """Returns timm's names of the weights, by key, where the file is one of IMAGENET_FILES."""
    for file in IMAGENET_FILES:
        pattern = re.compile(rf"((?:[^.]+\.)*?){re.escape(file.anchor)}")
        theirs = model_names(state, pattern)
        if file.anchor not in theirs.values():
            continue
        if not file.backbones.fullmatch(backbone):
            raise PerpixelError(
                f"its names are those of {file.origin}, which are for timm's backbones such as "
                f"{file.example} (model.backbone.type=timm, model.backbone.name={file.example}), "
                f"not for {backbone or 'the backbone of the recipe'}"
            )
        translated = file.timm_names(theirs.values(), timm_names)
        return {key: translated[name] for key, name in theirs.items() if name in translated}
    return {}


def title(model: Model) -> str:
    """Describes a model, as "FCN on ResNet-50"."""
    return f"{method_name(model.head)} on {backbone_name(model.backbone)}"


def model_names(
    state: Mapping[str, Any],
    anchor: re.Pattern[str] = _FIRST_BLOCK,
    without_dot: Iterable[str] = (),
) -> dict[str, str]:
    """Returns the names of the model's weights in a state dict, as its toolkit has them, by key.

    DataParallel, Lightning, AveragedModel and others put "module." or "model." before them, which
    `anchor`, of one weight, shows as its first group; torch.compile and FSDP put names of theirs
    between. What is beside the model, as a loss's weights, AveragedModel's n_averaged or the
    averages of mmcv's EMAHook (ema_backbone_conv1_weight), is left out: of names without a dot all
    but `without_dot`, as a ViT's pos_embed. Raises PerpixelError for two models.
    """
    names = {key: _WRAPPERS.sub("", str(key)) for key in state}
    prefixes = {match[1] for match in map(anchor.fullmatch, names.values()) if match}
    if len(prefixes) > 1:
        raise PerpixelError(
            f"its names are those of {len(prefixes)} models, beginning with "
            f"{' and with '.join(map(repr, sorted(prefixes)))}: save the one to use by itself"
        )
    if not prefixes:
        return names
    (prefix,) = prefixes
    known = {name for kit in TOOLKITS.values() for name in kit.mean_std_names or ()}
    known.update(without_dot)
    return {
        key: name.removeprefix(prefix)
        for key, name in names.items()
        if name.startswith(prefix) and ("." in name.removeprefix(prefix) or name in known)
    }


def plain_tensors(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Copies the weights in `names` as float32 (counters as int64) on the CPU, by their new names.

    Raises PerpixelError that lists the entries that are no weights.
    """
    tensors, problems = {}, []
    for key, name in names.items():
        value = state[key]
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.array(value, "f4" if value.dtype.kind == "f" else "i8"))
        if not isinstance(value, Tensor):
            problems.append(f"{key} is {type(value).__name__}, not a tensor")
        elif not value.is_floating_point() and not name.endswith(_COUNTER):
            problems.append(f"{key} holds {value.dtype}, not floating-point numbers")
        elif name in tensors:
            problems.append(f"{name} occurs twice, as {key}")
        else:
            dtype = torch.float32 if value.is_floating_point() else torch.int64
            tensors[name] = value.detach().to("cpu", dtype, copy=True).contiguous()
    if problems:
        raise PerpixelError("this is not a state dict:\n  " + "\n  ".join(problems))
    return tensors


def _choose_toolkit(toolkit: str, tensors: Mapping[str, Tensor]) -> Toolkit:
    """Returns the named toolkit, or for "auto" the one whose table matches most names.

    Raises PerpixelError where its table matches no name of a head.
    """
    require_known(toolkit, ("auto", *TOOLKITS), f"no toolkit is called {toolkit!r}")
    with_head = _with_head(tensors)
    if any(file.anchor in tensors for file in IMAGENET_FILES):  # one has a torchvision head's name
        with_head = {}
    if toolkit in with_head:
        return TOOLKITS[toolkit]
    if with_head and toolkit == "auto":
        return TOOLKITS[max(with_head, key=lambda name: with_head[name])]
    if with_head:
        raise PerpixelError(f"these are not {toolkit}'s names, but {' or '.join(with_head)}'s")
    classification = (*_CLASSIFICATION, *(file.anchor for file in IMAGENET_FILES))
    if any(name.endswith(classification) for name in tensors):
        raise PerpixelError(
            "this is a classification model, such as ImageNet pre-training gives, without a "
            "segmentation head to convert; `perpixel train --init` takes a ResNet's by "
            "torchvision's, timm's or open-mmlab's names, VGG-16's and CaffeNet's by Caffe's, and "
            "those of timm's backbones by timm's names (MobileNetV2's by torchvision's, too, and "
            "EfficientNet-Lite's by EfficientNet-PyTorch's)"
        )
    first = ", ".join(list(tensors)[:3]) or "none at all"
    raise PerpixelError(
        f"no FCN or Semantic FPN head among the names, as {', '.join(TOOLKITS)} name them; of "
        f"{plural(len(tensors), 'name')} the first are {first}"
    )


def _with_head(names: Iterable[str]) -> dict[str, int]:
    """Returns how many names each toolkit's table matches, of toolkits with a head among them.

    A file of a head alone holds nothing else.
    """
    names = list(names)
    matched = {
        name: list(to_perpixel_names(known.name_map, names).values())
        for name, known in TOOLKITS.items()
    }
    return {
        name: len(ours)
        for name, ours in matched.items()
        if any(key.startswith("head.") for key in ours)
        and (len(ours) == len(names) or not TOOLKITS[name].head_alone)
    }


def _toolkit_names(name_map: NameMap, ours: Iterable[str]) -> dict[str, str]:
    """Returns the toolkit's name of each of our names, those of timm's features included."""
    plain = {
        name: f"backbone.{timm_name(name.removeprefix('backbone.'))}"
        if name.startswith("backbone.")
        else name
        for name in ours
    }
    theirs = to_toolkit_names(name_map, plain.values())
    return {name: theirs[other] for name, other in plain.items()}


def _example(toolkit: Toolkit, shapes: Shapes, like: Model | None, trunk: Trunk | None) -> Model:
    """Returns the model that supplies what names and shapes do not tell."""
    pyramid = is_pyramid(shapes) or toolkit.fcn is None
    head = FCNSkip if toolkit is CAFFE else SemanticFPN if pyramid else FCN
    example = toolkit.semantic_fpn if pyramid else toolkit.fcn
    assert example is not None  # every toolkit builds one of the two
    if like is not None and isinstance(like.head, head):
        example = like
    if trunk is None:
        return example
    like_backbone = None if like is None else like.backbone
    backbone = backbone_of(
        trunk, shapes, like_backbone if isinstance(like_backbone, Timm) else None
    )
    changes: dict[str, Any] = {"backbone": backbone}
    if example is not like and trunk.fcn is not None and not pyramid:
        changes["head"] = trunk.fcn
    return example.model_copy(update=changes)


def _with_arguments(
    example: Model,
    output_stride: int | None,
    align_corners: bool | None,
    skip_scales: tuple[float, float] | None,
) -> Model:
    if skip_scales is not None:
        if output_stride is not None or align_corners is not None:
            raise UsageError(
                "output_stride and align_corners are not for the original FCN: its own layers "
                "upsample its scores to the image's size"
            )
        head = example.head.model_copy(update={"skip_scales": skip_scales})
        return example.model_copy(update={"head": head})
    if output_stride not in (None, 8, 16, 32):
        raise UsageError(f"output_stride is 8, 16 or 32, not {output_stride!r}")
    backbone = example.backbone
    if output_stride is not None:
        backbone = backbone.model_copy(update={"output_stride": output_stride})
    if align_corners is None:
        align_corners = example.align_corners
    return example.model_copy(update={"backbone": backbone, "align_corners": align_corners})
