"""The original FCN's names, those of Caffe's layers; pytorch-fcn has the same ones.

Sources: the net.py files of shelhamer/fcn.berkeleyvision.org; torchfcn/models of
wkentaro/pytorch-fcn. No weight is transposed or flipped, and the channels stay blue, green, red.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from perpixel.conversion.names import to_perpixel_names
from perpixel.conversion.toolkit import Rules, Toolkit
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.models import VGG16, FCNSkip, Model, method_name
from perpixel.recipes.schema import Inference, Input

MEAN = (104.00698793, 116.66876762, 122.67891434)
"""Blue, green and red, as infer.py has them; the data layers' have five decimals."""

ATONCE_SCALES = (0.01, 0.0001)

_NAME_MAP = (
    ("conv{s+1}_{k+1}", "backbone.stages.{s}.{k}"),
    ("conv{k}",         "backbone.conv{k}"),
    ("fc{k}",           "backbone.fc{k}"),
    ("score_fr",        "head.classifier"),
    ("score_pool4",     "head.skips.0"),
    ("score_pool3",     "head.skips.1"),
    ("upscore2",        "head.upsample2.0"),
    ("upscore_pool4",   "head.upsample2.1"),
    ("upscore",         "head.upsample32"),
    ("upscore16",       "head.upsample16"),
    ("upscore8",        "head.upsample8"),
    ("score_fr_sem",    "head.classifier"),  # see plain_names
    ("score59",         "head.classifier"),
)  # fmt: skip

_TORCHVISION_VGG16 = (
    *(
        (f"features.{index}", f"backbone.stages.{stage}.{conv}")
        for stage, first in enumerate((0, 5, 10, 17, 24))
        for conv, index in enumerate(range(first, first + (4 if stage < 2 else 6), 2))
    ),
    ("classifier.0", "backbone.fc6"),
    ("classifier.3", "backbone.fc7"),
)

_CONTEXT_2015 = {  # the model zoo's FCN-8s of PASCAL-Context (gist 91eece041c19ff8968ee)
    "score59": "score_fr",
    "score-pool4": "score_pool4",
    "score-pool3": "score_pool3",
    "upsample-fused-16": "upscore_pool4",
    "upsample": "upscore8",
}

_SCALES = ("scale_pool4.weight", "scale_pool3.weight")


def plain_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns a net's weights by the names of a net with one head, and what is left out.

    SIFT Flow's nets have two heads, score_fr_sem and score_fr_geo: the semantic one is taken. Names
    of 2015 become today's.
    """
    plain, left_out = {}, []
    for name, tensor in tensors.items():
        layer, _, parameter = name.rpartition(".")
        if layer.endswith("_geo"):
            left_out.append(name)
        else:
            layer = layer.removesuffix("_sem")
            plain[f"{_CONTEXT_2015.get(layer, layer)}.{parameter}"] = tensor
    return plain, left_out


def pop_scales(
    tensors: dict[str, Tensor], variant: str | None, like: Model | None
) -> tuple[float, float]:
    """Returns what pool4 and pool3 are multiplied with in a net of these names.

    A .caffemodel of FCN-8s at-once holds them as layers of their own, which are taken out of
    `tensors`; a pytorch-fcn file does not. Then FCN-8s needs a variant, "staged" or "atonce", or
    the model that it is `like`. Raises UsageError without these, and for a variant that does not
    fit.
    """
    if variant not in (None, "staged", "atonce"):
        raise UsageError(f"variant={variant!r}: FCN-8s is 'staged' or 'atonce'")
    if "upscore8.weight" not in tensors:
        if variant is not None:
            raise UsageError(
                f"variant={variant!r} tells two kinds of FCN-8s apart, and this net is none"
            )
        return 1.0, 1.0
    if any(name in tensors for name in _SCALES):
        if variant == "staged":
            raise UsageError(
                "variant='staged': this FCN-8s holds scales of pool4 and pool3, as those trained "
                "at once do"
            )
        of_pool4, of_pool3 = (_constant(name, tensors.pop(name, None)) for name in _SCALES)
        return of_pool4, of_pool3
    if variant is None and like is not None and method_name(like.head) == "FCN-8s":
        assert isinstance(like.head, FCNSkip)
        return like.head.skip_scales
    if variant is None:
        raise UsageError(
            "FCN-8s trained in stages and FCN-8s trained at once have the same names and shapes, "
            "and the second multiplies pool4 by 0.01 and pool3 by 0.0001: say variant='staged' or "
            "'atonce' (`perpixel convert --variant`; pytorch-fcn's files of the second are called "
            "fcn8s-atonce_from_caffe.pth)"
        )
    return ATONCE_SCALES if variant == "atonce" else (1.0, 1.0)


def _constant(name: str, scale: Tensor | None) -> float:
    values = [] if scale is None else sorted(set(scale.tolist()))
    if len(values) != 1:
        raise PerpixelError(f"{name}: a scale of pool4 or pool3 is one number, not {len(values)}")
    return float(f"{values[0]:.7g}")  # 0.01, not the float32 next to it


def has_head(names: Iterable[str]) -> bool:
    """Returns whether a net's names include score layers."""
    return any("score" in name for name in names)


def trunk_weights(
    state: Mapping[str, Any], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns a trunk's weights as our "backbone.*", and the names of what is left out.

    `expected` are the trunk's own. The names are Caffe's or, as in pytorch-fcn's vgg16_from_caffe,
    torchvision's VGG-16; a fully connected layer becomes the convolution of the same numbers.
    Raises PerpixelError where no weights of the trunk are there.
    """
    ours = to_perpixel_names((*_NAME_MAP, *_TORCHVISION_VGG16), map(str, state))
    weights = {}
    for name, our_name in ours.items():
        # What else a trunk has, as VGG-19's conv3_4, is taken, too: it will not fit, and say so.
        if not our_name.startswith("backbone.") or our_name.startswith("backbone.fc8."):
            continue
        tensor = torch.as_tensor(state[name]).float()
        like = expected.get(our_name.removeprefix("backbone."))
        if like is not None and tensor.ndim == 2 and tensor.numel() == like.numel():
            tensor = tensor.reshape(like.shape)
        weights[our_name] = tensor
    if not weights:
        raise PerpixelError(
            f"no weights of VGG-16 or CaffeNet in it, which begin with conv1_1 or conv1; its names "
            f"begin with {first_few(state)}"
        )
    return weights, [key for key in map(str, state) if ours.get(key) not in weights]


def scale_layers(model: Model) -> dict[str, tuple[int, float]]:
    """The layers that Caffe has for a model's skip scales: {name: (channels, scale)}."""
    head, backbone = model.head, model.backbone
    assert isinstance(head, FCNSkip)
    if head.skip_scales == (1, 1) or not isinstance(backbone, VGG16):
        return {}
    factors = zip(_SCALES, (8, 4), head.skip_scales, strict=True)
    return {name: (width * backbone.base_channels, scale) for name, width, scale in factors}


def variant_of_caffemodel(names: Iterable[str]) -> str | None:
    """Returns "staged" for an FCN-8s without scales of pool4 and pool3; None where none is needed.

    A .caffemodel holds every layer, so that one without such layers was not trained at once.
    """
    plain = plain_names(dict.fromkeys(names, torch.empty(0)))[0]
    is_staged = "upscore8.weight" in plain and not any(name in plain for name in _SCALES)
    return "staged" if is_staged else None


def _unsupported(model: Model) -> Rules:
    head = model.head
    yield not isinstance(head, FCNSkip), "another head than FCN-32s, -16s or -8s (head)"
    if isinstance(head, FCNSkip):
        known = head.skip_scales in ((1.0, 1.0), ATONCE_SCALES)
        yield not known, "scales of its own (head.skip_scales)"


CAFFE = Toolkit(
    name="caffe",
    name_map=_NAME_MAP,
    fcn=Model(backbone=VGG16(), head=FCNSkip()),
    semantic_fpn=None,
    input=Input(mean=MEAN, std=(1.0, 1.0, 1.0), channel_order="bgr"),
    inference=Inference(),
    unsupported=_unsupported,
)
