"""From images to what a model is fed."""

import torch
from torch import Tensor

from perpixel.recipes.schema import Input


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """torch's autocast to `dtype`, switched off for float32.

    Without its cache: torch clears that only when the outermost autocast ends. Inside a caller's
    own autocast the cached casts of the first step's weights would serve every later step.
    """
    return torch.autocast(
        device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False
    )


def normalize(images: Tensor, spec: Input) -> Tensor:
    """(value - mean) / std in the model's channel order, on the images' own device.

    images: uint8 RGB [N, H, W, 3]; returns float32 [N, 3, H, W], laid out channels-last.
    """
    planes = images.permute(0, 3, 1, 2)
    if spec.channel_order == "bgr":
        planes = planes.flip(1)
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    fed = planes.float().sub_(mean).div_(std)
    return fed.contiguous(memory_format=torch.channels_last)
