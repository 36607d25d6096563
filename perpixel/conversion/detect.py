"""Finds the model of another toolkit's state dict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perpixel.checkpoints.format import mismatches
from perpixel.conversion.detectron2 import DETECTRON2
from perpixel.conversion.mmseg import MMSEG
from perpixel.conversion.names import to_perpixel_names, to_toolkit_names
from perpixel.conversion.sssegmentation import SSSEGMENTATION
from perpixel.conversion.structure import Shapes, is_pyramid, read_model, resnet_of
from perpixel.conversion.toolkit import Toolkit
from perpixel.conversion.torchvision import PYTORCH_AUTO_DRIVE, TORCHVISION
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.models.build import build
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.models import FCN, Model, SemanticFPN, method_name
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX, Input

TOOLKITS = {
    toolkit.name: toolkit
    for toolkit in (MMSEG, SSSEGMENTATION, PYTORCH_AUTO_DRIVE, TORCHVISION, DETECTRON2)
}

_CLASSIFICATION = ("fc.weight", "fc1000_w")  # torchvision, open-mmlab; Caffe2
_CLASSIFIER = {"fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias"}
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Finding:
    """The model of a state dict, and its weights under our names, float32.

    `input` is None unless the state dict itself holds mean and std (detectron2's of 2020).
    """

    toolkit: Toolkit
    model: Model
    num_classes: int
    weights: Mapping[str, Tensor]
    input: Input | None = None


def from_state_dict(
    state: Mapping[str, Any],
    toolkit: str = "auto",
    output_stride: int | None = None,
    align_corners: bool | None = None,
) -> Segmenter:
    """Builds the model of another toolkit's state dict with its weights, in evaluation mode.

    state: {name: tensor or NumPy array}; "module." in front of names is ignored, half precision
    becomes float32. toolkit: "mmseg", "sssegmentation", "torchvision", "pytorch-auto-drive",
    "detectron2", or "auto" to detect it by the names (those of torchvision without an auxiliary
    head are taken for pytorch-auto-drive's). output_stride: 8, 16 or 32; None is 8 for FCN and 32
    for Semantic FPN. align_corners: None is the toolkit's default, True for pytorch-auto-drive
    alone. The model's `spec` holds both. Raises UsageError for a wrong argument, PerpixelError for
    a state dict that fits no model, listing every name that is missing or unexpected.
    """
    return build_model(
        find(state, toolkit=toolkit, output_stride=output_stride, align_corners=align_corners)
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
    like: Model | None = None,
) -> Finding:
    """Finds toolkit, model, weights and input of a state dict; raises as `from_state_dict`.

    What names and shapes do not tell (dilations, dropout, ...) is taken from `like`, else from the
    toolkit's own models.
    """
    tensors = plain_tensors(state)
    source = _choose_toolkit(toolkit, tensors)
    file_input = None
    if source.mean_std_names is not None and all(n in tensors for n in source.mean_std_names):
        mean, std = (tuple(tensors.pop(n).flatten().tolist()) for n in source.mean_std_names)
        file_input = source.input.model_copy(update={"mean": mean, "std": std})
    names = to_perpixel_names(source.name_map, tensors)
    shapes = {name: tuple(tensors[toolkit_name].shape) for toolkit_name, name in names.items()}
    example = _with_arguments(_example(source, shapes, like), output_stride, align_corners)
    model, num_classes = read_model(shapes, example)

    if num_classes >= IGNORE_INDEX:
        raise PerpixelError(f"{num_classes} classes; masks hold at most {IGNORE_INDEX - 1}")
    with torch.device("meta"):
        expected = build(model, num_classes=num_classes).state_dict()
    toolkit_names = to_toolkit_names(source.name_map, expected)
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
    weights = {name: tensors[toolkit_names[name]] for name in expected}
    return Finding(source, model, num_classes, weights, file_input)


def backbone_weights(state: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Returns a classification ResNet's weights as our "backbone.*", None for another state dict.

    The classifier is left out. torchvision's and open-mmlab's (v1c) names are ours without the
    prefix, mmpretrain's have it. Raises PerpixelError for entries that are no tensors.
    """
    names = {plain_name(key) for key in state} - _CLASSIFIER
    prefix = "backbone." if all(name.startswith("backbone.") for name in names) else ""
    if f"{prefix}layer1.0.conv1.weight" not in names:
        return None
    return {
        f"backbone.{name.removeprefix('backbone.')}": tensor
        for name, tensor in plain_tensors(state).items()
        if name not in _CLASSIFIER
    }


def title(model: Model) -> str:
    """Describes a model with a ResNet, as "FCN on ResNet-50"."""
    return f"{method_name(model.head)} on ResNet-{resnet_of(model).depth}"


def plain_name(key: object) -> str:
    """Returns a weight's name without the prefixes of DataParallel and torch.compile."""
    return str(key).replace("_orig_mod.", "").removeprefix("module.")


def plain_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies the weights as float32 (counters as int64) on the CPU, by their plain names.

    Raises PerpixelError that lists the entries that are no weights.
    """
    tensors, problems = {}, []
    for key, value in state.items():
        name = plain_name(key)
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.array(value, "f4" if value.dtype.kind == "f" else "i8"))
        if not isinstance(value, Tensor):
            problems.append(f"{key} is {type(value).__name__}, not a tensor")
        elif not value.is_floating_point() and not name.endswith(_COUNTER):
            problems.append(f"{key} holds {value.dtype}, not floating-point numbers")
        elif name in tensors:
            problems.append(f"{name} occurs with and without the prefix module.")
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
    matched = {
        name: to_perpixel_names(known.name_map, tensors).values()
        for name, known in TOOLKITS.items()
    }
    with_head = [
        name for name, ours in matched.items() if any(key.startswith("head.") for key in ours)
    ]
    if toolkit in with_head:
        return TOOLKITS[toolkit]
    if with_head and toolkit == "auto":
        return TOOLKITS[max(with_head, key=lambda name: len(matched[name]))]
    if with_head:
        raise PerpixelError(f"these are not {toolkit}'s names, but {' or '.join(with_head)}'s")
    if any(name.endswith(_CLASSIFICATION) for name in tensors):
        raise PerpixelError(
            "this is a classification model, such as ImageNet pre-training gives, without a "
            "segmentation head to convert; `perpixel train --init` takes a ResNet's by "
            "torchvision's or open-mmlab's names"
        )
    first = ", ".join(list(tensors)[:3]) or "none at all"
    raise PerpixelError(
        f"no FCN or Semantic FPN head among the names, as {', '.join(TOOLKITS)} name them; of "
        f"{plural(len(tensors), 'name')} the first are {first}"
    )


def _example(toolkit: Toolkit, shapes: Shapes, like: Model | None) -> Model:
    """Returns the model that supplies what names and shapes do not tell."""
    pyramid = is_pyramid(shapes) or toolkit.fcn is None
    if like is not None and isinstance(like.head, SemanticFPN if pyramid else FCN):
        return like
    example = toolkit.semantic_fpn if pyramid else toolkit.fcn
    assert example is not None  # every toolkit builds one of the two
    return example


def _with_arguments(example: Model, output_stride: int | None, align_corners: bool | None) -> Model:
    if output_stride not in (None, 8, 16, 32):
        raise UsageError(f"output_stride is 8, 16 or 32, not {output_stride!r}")
    backbone = resnet_of(example)
    if output_stride is not None:
        backbone = backbone.model_copy(update={"output_stride": output_stride})
    if align_corners is None:
        align_corners = example.align_corners
    return example.model_copy(update={"backbone": backbone, "align_corners": align_corners})
