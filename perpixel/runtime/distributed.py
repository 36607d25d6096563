"""The processes of a run under torchrun, and what they exchange."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from perpixel.errors import PerpixelError

_PATIENCE = timedelta(days=1)
"""How long a rank waits for others that have more to do; a lost one is torchrun's to notice."""


@dataclass(frozen=True)
class DistInfo:
    """This process among those that torchrun started; `local_rank` counts those of one machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes files (rank 0)."""
        return self.rank == 0


def get_dist_info() -> DistInfo:
    """Reads torchrun's environment variables; without them it is rank 0 of 1."""
    rank, world_size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return DistInfo(rank, world_size, local_rank)


@contextmanager
def process_group(device: torch.device) -> Iterator[DistInfo]:
    """Context with an initialized process group (NCCL on CUDA, gloo on CPUs), if there are ranks.

    Raises PerpixelError when another rank cannot be reached, as after its end.
    """
    dist_info = get_dist_info()
    if dist_info.world_size == 1 or dist.is_initialized():
        yield dist_info
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        yield dist_info
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PerpixelError(
                f"rank {dist_info.rank} cannot reach the other ranks; if one of them has ended, "
                f"its error is the one to fix ({_first_and_last_line(error)})"
            ) from error
        raise
    # After an error the group is left alone: to take it down would wait for ranks that are stuck.
    dist.destroy_process_group()


def _first_and_last_line(error: Exception) -> str:
    """The first and last line of an error: where it happened, and NCCL's reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of every rank's `values`, on every rank; the same tensor where there is one rank."""
    if dist.is_available() and dist.is_initialized():
        total = values.clone()
        dist.all_reduce(total)
        return total
    return values


def all_gather_text(text: str) -> list[str]:
    """Every rank's `text`, on every rank, in their order."""
    content = text.encode(errors="surrogateescape")  # file names may be of any bytes
    size = int(all_gather_ints([len(content)]).max())
    rows = all_gather_ints(list(content.ljust(size, b"\0"))).tolist()
    return [bytes(row).rstrip(b"\0").decode(errors="surrogateescape") for row in rows]


def all_gather_ints(row: Sequence[int]) -> Tensor:
    """Every rank's row of as many numbers, on every rank: int64 [ranks, numbers]."""
    dist_info = get_dist_info()
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    rows = torch.zeros(
        dist_info.world_size, len(row), dtype=torch.int64, device="cuda" if on_gpu else "cpu"
    )
    rows[dist_info.rank] = torch.tensor(row, dtype=torch.int64)
    return all_reduce_sum(rows)


def barrier() -> None:
    """Waits until every rank has called this."""
    all_gather_ints([0])
