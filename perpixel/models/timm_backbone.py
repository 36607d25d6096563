"""Any backbone of timm that gives features, under our heads; its names and weights are timm's."""

from collections.abc import Sequence
from types import ModuleType
from typing import cast

from torch import Tensor, nn

from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes.models import Timm
from perpixel.recipes.overrides import suggestion

_STAGES = 4


class TimmBackbone(nn.Module):
    """The last four features of `timm.create_model(features_only=True)`; keys: `body.*`.

    `out_channels` are theirs. Raises UsageError for a name or an output stride timm does not
    have, PerpixelError when timm cannot be imported.
    """

    def __init__(self, spec: Timm) -> None:
        super().__init__()
        self.body = _create(spec)
        timm = _timm()
        self.out_channels = tuple(self.body.feature_info.channels()[-_STAGES:])  # type: ignore[operator, union-attr]
        # Only those of timm's wrappers that know another order have the attribute.
        order = getattr(self.body, "output_fmt", timm.layers.Format.NCHW)
        self._channels_last = order == timm.layers.Format.NHWC

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images [N, 3, H, W] to features [N, C, h, w], finest first."""
        features = cast(Sequence[Tensor], self.body(images))[-_STAGES:]
        if self._channels_last:
            return [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return list(features)


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


def _create(spec: Timm) -> nn.Module:
    timm = _timm()
    options = {} if spec.output_stride == 32 else {"output_stride": spec.output_stride}
    try:
        body: nn.Module = timm.create_model(spec.name, features_only=True, **options)
    except Exception as error:  # a model may refuse by any: RuntimeError, TypeError, an assertion
        raise UsageError(
            f"model.backbone.name={spec.name!r}: timm makes no features of it at output stride "
            f"{spec.output_stride} ({type(error).__name__}: {error})."
            + ("" if spec.name in timm.list_models() else suggestion(spec.name, timm.list_models()))
        ) from None
    return body


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
