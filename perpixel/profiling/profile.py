"""Everything `perpixel profile` tells of a model at one size."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from perpixel.acceleration.accelerate import accelerate
from perpixel.errors import PerpixelError
from perpixel.models.build import build
from perpixel.profiling.flops import Count, count
from perpixel.profiling.latency import Latency, inference_pass, latency, write_trace
from perpixel.profiling.memory import TOO_LITTLE, Memory, Request, peak_memory
from perpixel.recipes.base import Size
from perpixel.recipes.schema import PublishedProfile, Recipe

_NAMES: dict[torch.dtype, Literal["float32", "bfloat16", "float16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@dataclass(frozen=True)
class Profile:
    """A model at one size, `batch` images at a time. What was not measured is None."""

    size: Size
    batch: int
    count: Count
    latency: Latency | None = None
    inference: Memory | None = None
    training: Memory | None = None

    @property
    def images_per_second(self) -> float | None:
        """Images in a second, by the best trial."""
        return None if self.latency is None else 1000 * self.batch / self.latency.best

    def as_json(
        self, *, layers: bool = False, published: PublishedProfile | None = None
    ) -> dict[str, Any]:
        """Plain values: counts, milliseconds, bytes, and what the source published at this size."""
        found: dict[str, Any] = {
            "size": list(self.size),
            "batch": self.batch,
            "params": self.count.params,
            "params_auxiliary": self.count.params_auxiliary,
            "macs": self.count.macs,
            "macs_convolutions": self.count.macs_convolutions,
            "latency_ms": None if self.latency is None else asdict(self.latency),
            "images_per_second": self.images_per_second,
            "peak_memory_bytes": None if self.inference is None else self.inference.bytes,
            "peak_memory_training_bytes": None if self.training is None else self.training.bytes,
        }
        found["published"] = published and published.model_dump(mode="json")
        if layers:
            found["modules"] = [asdict(layer) for layer in self.count.layers]
        return found


def profile(
    recipe: Recipe,
    *,
    num_classes: int,
    size: Size,
    batch: int = 1,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seconds: float = 10,
    trace: Path | None = None,
) -> Profile:
    """Counts the recipe's model at one size and runs it there, with random weights.

    Time, memory and the trace are `device`'s; with `seconds` 0 nothing is run. `trace` is a file
    for the profiler's view of a pass. Raises UsageError for a size that the model cannot take,
    PerpixelError when the device has too little memory for it.
    """
    counted = count(recipe.model, num_classes=num_classes, size=size, batch=batch)
    if seconds == 0:
        return Profile(size, batch, counted)

    request = Request(
        recipe=recipe,
        num_classes=num_classes,
        size=size,
        batch=batch,
        device=str(device),
        dtype=_NAMES[dtype],
        training=False,
    )
    inference = peak_memory(request)
    if inference.note == TOO_LITTLE:
        raise PerpixelError(f"size {size[0]}x{size[1]}: {TOO_LITTLE} for a batch of {batch}")
    model = build(recipe.model, num_classes=num_classes)
    model = accelerate(model, device=device, dtype=dtype, training=False)
    images = torch.ones(batch, 3, *size, device=device).to(memory_format=torch.channels_last)
    run = inference_pass(model, images, dtype=dtype)
    taken = latency(run, device, seconds=seconds)
    if trace is not None:
        write_trace(run, device, trace)
    training = peak_memory(request.model_copy(update={"training": True}))
    return Profile(size, batch, counted, taken, inference, training)
