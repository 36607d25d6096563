"""Measures everything that `perpixel profile` prints of a model at one size."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from perpixel.acceleration.accelerate import accelerate
from perpixel.errors import PerpixelError
from perpixel.models.build import build
from perpixel.profiling.flops import Count, count
from perpixel.profiling.latency import Latency, inference_pass, latency, write_trace
from perpixel.profiling.memory import TOO_LITTLE, Memory, Request, peak_memory
from perpixel.recipes.base import Size
from perpixel.recipes.schema import PublishedProfile, Recipe


@dataclass(frozen=True)
class Profile:
    """Measurements of a model at one size and batch size; None for what was not measured."""

    size: Size
    batch: int
    count: Count
    latency: Latency | None = None
    inference: Memory | None = None
    training: Memory | None = None

    @property
    def images_per_second(self) -> float | None:
        """Images per second in the best trial."""
        return None if self.latency is None else 1000 * self.batch / self.latency.best

    def as_json(
        self, *, layers: bool = False, published: PublishedProfile | None = None
    ) -> dict[str, Any]:
        """Returns JSON values: counts, milliseconds, bytes, and the published figures."""
        values: dict[str, Any] = {
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
            "published": published and published.model_dump(mode="json"),
        }
        if layers:
            values["modules"] = [asdict(layer) for layer in self.count.layers]
        return values


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
    """Counts the recipe's model at one size and measures it on `device`, with random weights.

    `seconds` limits a trial; 0 measures nothing. `trace` is the file for a Chrome trace of a pass.
    Raises UsageError for a size that the model cannot take, PerpixelError if the device has not
    enough memory for it.
    """
    counts = count(recipe.model, num_classes=num_classes, size=size, batch=batch)
    if seconds == 0:
        return Profile(size, batch, counts)

    request = Request(
        recipe=recipe,
        num_classes=num_classes,
        size=size,
        batch=batch,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        training=False,
    )
    inference = peak_memory(request)
    if inference.note == TOO_LITTLE:
        raise PerpixelError(
            f"size {size[0]}x{size[1]}: {TOO_LITTLE} for a batch of {batch}; take a smaller --size "
            f"or --batch"
        )
    model = build(recipe.model, num_classes=num_classes)
    model = accelerate(model, device=device, dtype=dtype, training=False)
    images = torch.ones(batch, 3, *size, device=device).to(memory_format=torch.channels_last)
    run = inference_pass(model, images, dtype=dtype)
    measured = latency(run, device, seconds=seconds)
    if trace is not None:
        write_trace(run, device, trace)
    training = peak_memory(request.model_copy(update={"training": True}))
    return Profile(size, batch, counts, measured, inference, training)
