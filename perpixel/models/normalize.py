"""From images to a model's input."""

import torch
from torch import Tensor

from perpixel.recipes.schema import Input


def normalize(images: Tensor, spec: Input) -> Tensor:
    """Returns (value - mean) / std in the model's channel order, on the images' device.

    images: uint8 RGB [N, H, W, 3]; returns float32 [N, 3, H, W], laid out channels-last.
    """
    planes = images.permute(0, 3, 1, 2)
    if spec.channel_order == "bgr":
        planes = planes.flip(1)
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, dtype=torch.float32, device=images.device).view(1, 3, 1, 1)
    values = planes.float().sub_(mean).div_(std)
    return values.contiguous(memory_format=torch.channels_last)
