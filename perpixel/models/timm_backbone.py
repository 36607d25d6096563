"""Any backbone of timm that gives features, under our heads; its names and weights are timm's.

timm is an extra, and imports only beside a torchvision that fits the installed torch.
"""

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
        self.body = _create(spec, pretrained=False)
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


def pretrained_weights(spec: Timm) -> dict[str, Tensor]:
    """The weights that timm publishes for the backbone, by our names; timm downloads them."""
    body = _create(spec, pretrained=True)
    return {f"backbone.body.{name}": tensor for name, tensor in body.state_dict().items()}


def _create(spec: Timm, *, pretrained: bool) -> nn.Module:
    timm = _timm()
    options = {} if spec.output_stride == 32 else {"output_stride": spec.output_stride}
    try:
        body: nn.Module = timm.create_model(
            spec.name, features_only=True, pretrained=pretrained, **options
        )
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
            f"a timm backbone needs timm, and a torchvision made for this torch ({error}): "
            f'pip install "perpixel[timm]"'
        ) from None
    module: ModuleType = timm
    return module
