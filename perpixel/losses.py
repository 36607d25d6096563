"""Training losses of logits at the head's own stride."""

from typing import assert_never

from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from perpixel.recipes.spec import IGNORE, Loss


def segmentation_loss(
    logits: Tensor, labels: Tensor, spec: Loss, *, align_corners: bool = False
) -> Tensor:
    """Cross-entropy of bilinearly enlarged logits, a float32 scalar.

    logits: [N, classes, h, w]; labels: [N, H, W] integers, 0..classes-1 or 255 where there is no
    label. `spec.mean` "valid" divides the sum by the labelled pixels (F.cross_entropy's mean),
    "all" by N * H * W (mmsegmentation losses/cross_entropy_loss.py). Without any labelled pixel
    the loss is 0 and so are its gradients.
    """
    full = interpolate(
        logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=align_corners
    )
    total = cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="sum")
    match spec.mean:
        case "valid":
            return total / (labels != IGNORE).sum().clamp(min=1)
        case "all":
            return total / labels.numel()
        case _:
            assert_never(spec.mean)
