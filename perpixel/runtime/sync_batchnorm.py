"""Batch norm over the images of all ranks."""

from typing import Any

import torch
from torch import Tensor, nn

from perpixel.errors import UsageError
from perpixel.runtime.distributed import all_reduce_sum, get_dist_info


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> None:
    """Replaces the batch norms of `model` by ones with statistics over all ranks' images.

    On CUDA with torch's own SyncBatchNorm; elsewhere, where that does not run, with ours. Raises
    UsageError for a kind of batch norm that neither stands for, as some of timm's models have.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                if type(child) is not nn.BatchNorm2d:
                    raise UsageError(
                        f"the backbone's {type(child).__name__} ({name}) cannot be synchronized "
                        f"over ranks: train this backbone on one rank"
                    )
                if device.type == "cuda":
                    setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
                else:
                    setattr(parent, name, _alike(child))


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm (Ioffe and Szegedy, 2015) over all ranks; every rank has equally many features.

    The ranks exchange every channel's mean and variance, and their gradients on the way back.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] to [N, C, h, w]; statistics in float32 or the features' float64."""
        if not self.training:
            return super().forward(features)
        exact = features if features.dtype == torch.float64 else features.float()
        mean, variance = _of_all_ranks(exact)
        with torch.no_grad():
            count = features.numel() // features.shape[1] * get_dist_info().world_size
            assert self.momentum is not None
            self.get_buffer("num_batches_tracked").add_(1)
            self.get_buffer("running_mean").lerp_(mean, self.momentum)
            self.get_buffer("running_var").lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal = (exact - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normal.to(features.dtype)


def _of_all_ranks(features: Tensor) -> tuple[Tensor, Tensor]:
    """Returns every channel's mean and (biased) variance over all ranks, [C] each."""
    dimensions = (0, 2, 3)
    statistics = torch.stack([features.mean(dimensions), features.var(dimensions, correction=0)])
    dist_info = get_dist_info()
    row = nn.functional.pad(
        statistics[None], (0, 0, 0, 0, dist_info.rank, dist_info.world_size - 1 - dist_info.rank)
    )
    means, variances = _Sum.apply(row).unbind(1)
    mean = means.mean(0)
    return mean, (variances + (means - mean) ** 2).mean(0)


class _Sum(torch.autograd.Function):
    """The differentiable sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004  autograd's signature
        return all_reduce_sum(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return all_reduce_sum(gradients[0].contiguous())


def _alike(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    assert norm.momentum is not None
    synced = SyncBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    synced.load_state_dict(norm.state_dict())
    return synced
