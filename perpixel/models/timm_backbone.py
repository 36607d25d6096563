"""Any backbone of timm that gives features, under our heads; its names and weights are timm's."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.base import Size
from perpixel.recipes.models import Timm
from perpixel.recipes.overrides import suggestion

if TYPE_CHECKING:
    from perpixel.models.published_trunks import Published

_STAGES = 4
_ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # ViT, DeiT, DINOv2, DINOv3, EVA
    # Swin; its last stage shifts windows at every size, as in the toolkits, where `img_size` of the
    # weights would have it not.
    {"strict_img_size": False, "always_partition": True},
    {},
)
"""What timm's classes call the option to take images of any size; the first that it knows."""

_MULTIPLES = {  # of these sides only, so that images are padded inside
    "swin": 4,
    "hrnet": 32,  # except as published
    "hieradet": 32,
    "sam2_hiera": 32,
    "dla": 32,
    "samvit": 16,
}

_OWN_SIZE = "mvitv2"  # an index of its positions is out of range, which the meta device cannot see


class TimmBackbone(nn.Module):
    """The last four features of `timm.create_model(features_only=True)`; keys: `body.*`.

    `out_channels` and `strides` are theirs. A plain ViT, whose blocks have one stride, gives those
    at the quarters of its depth. An image whose sides a backbone cannot take is padded with zeros
    at the bottom and right, and the features are cropped again. Raises UsageError for a name or an
    output stride timm does not have, PerpixelError when timm cannot be imported.
    """

    def __init__(self, spec: Timm) -> None:
        super().__init__()
        self.body = _create(spec)
        timm = _timm()
        info = cast(Any, self.body).feature_info
        self.out_channels: tuple[int, ...] = tuple(info.channels()[-_STAGES:])
        self.strides: tuple[int, ...] = tuple(info.reduction()[-_STAGES:])
        trunk = _published(spec)
        self.center_padding = trunk is not None and trunk.center_padding
        self.multiple = 1
        if self.center_padding:
            self.multiple = self.strides[-1]
        elif trunk is None:
            known = (size for name, size in _MULTIPLES.items() if spec.name.startswith(name))
            self.multiple = next(known, 1)
        # Only those of timm's wrappers that know another order have the attribute.
        order = getattr(self.body, "output_fmt", timm.layers.Format.NCHW)
        self._channels_last = order == timm.layers.Format.NHWC

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images [N, 3, H, W] to features [N, C, h, w], finest first."""
        height, width = images.shape[-2:]
        if self.multiple > 1:
            down, right = -height % self.multiple, -width % self.multiple
            left, top = (right // 2, down // 2) if self.center_padding else (0, 0)
            images = pad(images, (left, right - left, top, down - top))
        features = list(cast(Sequence[Tensor], self.body(images))[-_STAGES:])
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        if self.multiple > 1:
            features = [
                feature[..., : -(-height // stride), : -(-width // stride)]
                for feature, stride in zip(features, self.strides, strict=True)
            ]
        return features


def check_sizes(spec: Timm, sizes: Iterable[Size]) -> None:
    """Raises UsageError unless the backbone takes images of these (height, width).

    It runs on PyTorch's meta device, without weights.
    """
    with torch.device("meta"):
        backbone = TimmBackbone(spec).eval()
    own = _timm().get_pretrained_cfg(spec.name)
    for height, width in sizes:
        try:
            if spec.name.startswith(_OWN_SIZE) and own and (height, width) != own.input_size[1:]:
                raise ValueError("its positions are of its own size")
            with torch.no_grad():
                backbone(torch.zeros(1, 3, height, width, device="meta"))
        except Exception as error:  # an assertion, a RuntimeError, ...: each family has its own
            first_line = (str(error).splitlines() or ["no message"])[0]
            side = "x".join(map(str, own.input_size[1:])) if own else "its own size"
            raise UsageError(
                f"model.backbone.name={spec.name}: timm's model cannot take images of {height}x"
                f"{width} ({type(error).__name__}: {first_line}). It was made for "
                f"{side}: set augment.crop_size={side}, inference.mode=slide and "
                f"inference.window_size={side}, or take another backbone"
            ) from None


def published_family(name: str) -> str | None:
    """Returns the family whose published code differs from timm's model; None for others."""
    _timm()  # or why it cannot be imported
    from perpixel.models.published_trunks import family_of

    return family_of(name)


def require_name(name: str, *, known: Iterable[str] = ()) -> None:
    """Raises UsageError unless timm has a model of this name, or of its part before the dot.

    `known` are other names that the error may suggest.
    """
    models = _timm().list_models()
    if name.partition(".")[0] not in models:
        raise UsageError(f"timm has no backbone {name!r}.{suggestion(name, [*known, *models])}")


def pretrained_source(spec: Timm) -> tuple[str, dict[str, tuple[float, ...]]]:
    """Returns where timm publishes ImageNet weights for the backbone, and `input`'s mean and std.

    It is a URL whose last part ends in digits of the file's sha256, or OWNER/NAME on the Hugging
    Face Hub. Raises UsageError where timm has none.
    """
    config = _timm().get_pretrained_cfg(spec.name)
    if config is None or not (config.url or config.hf_hub_id):
        raise UsageError(
            f"{spec.name}: timm publishes no weights for this backbone; name a file with --init "
            f"FILE, or another backbone with model.backbone.name"
        )
    normalization = {
        name: tuple(round(255 * value, 3) for value in getattr(config, name))
        for name in ("mean", "std")
    }
    return config.url or config.hf_hub_id, normalization


def list_models(pattern: str) -> list[str]:
    """Returns the names of timm's models that match a shell pattern."""
    names: list[str] = _timm().list_models(pattern)
    return names


def timm_layer_depths(spec: Timm, names: Iterable[str]) -> dict[str, int]:
    """How many layers from the top, 1 for the last, the backbone's parameters of these names are.

    The layers are timm's, as in timm.optim.param_groups_layer_decay, where a classifier is the top,
    0. Raises UsageError where timm does not say which there are.
    """
    timm = _timm()
    with torch.device("meta"):
        whole = timm.create_model(spec.name)
    try:
        matcher = whole.group_matcher(coarse=False)
        layers = timm.models.group_parameters(whole, matcher, reverse=True)
        # timm's features have "stages_0." for "stages.0.", or hold the whole model by these names.
        known = {
            f"body.{here}": layer
            for name, layer in layers.items()
            for here in (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
        }
        found = {name: known[name] for name in names}
    except (AttributeError, KeyError) as error:
        raise UsageError(
            f"optimizer.layer_decay: timm does not say which layers {spec.name} has ({error}); set "
            f"optimizer.layer_decay=1"
        ) from None
    top = max(found.values()) + 1
    return {name: top - layer for name, layer in found.items()}


def _create(spec: Timm) -> nn.Module:
    timm = _timm()
    options: dict[str, Any] = {}
    if spec.output_stride != 32:
        options["output_stride"] = spec.output_stride
    if spec.drop_path is not None:
        options["drop_path_rate"] = spec.drop_path
    trunk = _published(spec)
    if trunk is not None:
        options |= trunk.options
    try:
        body, any_size = _create_for_any_size(spec.name, options)
        info = cast(Any, body).feature_info
        strides = info.reduction()
        if len(set(strides)) == 1:
            depth = len(info.info)
            quarters = [depth * part // _STAGES - 1 for part in range(1, _STAGES + 1)]
            if trunk is not None:
                quarters = trunk.blocks.get(depth, quarters)
            whole = timm.create_model(spec.name, num_classes=0, **options, **any_size)
            getter = timm.models._features.FeatureGetterNet  # create_model has no option `norm`
            body = getter(whole, out_indices=quarters, norm=spec.final_norm)
        elif spec.final_norm:
            raise ValueError("final_norm is for plain ViTs")
        drops = [m for m in body.modules() if isinstance(m, timm.layers.DropPath) and m.drop_prob]
        if spec.drop_path and not drops:
            raise TypeError("drop_path_rate changes nothing in it")
        if trunk is not None:
            trunk.change(body)
    except Exception as error:  # a model may refuse by any: RuntimeError, TypeError, an assertion
        if "drop_path_rate" in str(error):
            raise UsageError(
                f"model.backbone.drop_path={spec.drop_path}: timm's {spec.name} has no drop path; "
                f"set model.backbone.drop_path=null"
            ) from None
        raise UsageError(
            f"model.backbone.name={spec.name!r}: timm makes no features of it at output stride "
            f"{spec.output_stride} ({type(error).__name__}: {error})."
            + ("" if spec.name in timm.list_models() else suggestion(spec.name, timm.list_models()))
        ) from None
    return body


def _create_for_any_size(
    name: str, options: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, bool]]:
    """Creates the features with the first of _ANY_SIZE that the model's class knows."""
    *special, plain = _ANY_SIZE
    for any_size in special:
        with suppress(TypeError):
            body: nn.Module = _timm().create_model(name, features_only=True, **options, **any_size)
            return body, any_size
    return _timm().create_model(name, features_only=True, **options), plain


def _published(spec: Timm) -> "Published | None":
    if not spec.as_published:
        return None
    _timm()  # or why it cannot be imported
    from perpixel.models.published_trunks import published

    return published(spec.name)


def _timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch
        raise PerpixelError(
            f"this backbone is timm's, which cannot be imported ({error}): torchvision must be the "
            f"version made for the installed torch; pip install --upgrade torch torchvision timm"
        ) from None
    module: ModuleType = timm
    return module
