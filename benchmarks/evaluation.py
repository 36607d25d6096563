"""Masks against interpolate-then-argmax, and an image of 100 megapixels in windows.

The logits are those of a model that `perpixel demo` trains first, on two of its scenes side by
side, brought to a stride of the size at hand; classes beyond its own are its own, mirrored and
lowered.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import alternating, apart, extra_memory, proc_status, write_result
from torch import Tensor
from torch.nn.functional import interpolate

import perpixel
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.inference.predictor import Predictor
from perpixel.inference.sliding_window import window_starts
from perpixel.inference.tta import predict_masks
from perpixel.models.normalize import normalize
from perpixel.ops.bilinear import resize_weights
from perpixel.ops.upsample_argmax import Upsampling, upsample_argmax

CASES = (
    (150, (2000, 3000), 8),
    (150, (2000, 3000), 4),
    (19, (1024, 2048), 8),
    (19, (1024, 2048), 4),
)


DEMO = Path("runs/benchmark-demo")


def image(size: tuple[int, int]) -> np.ndarray:
    """Scenes side by side, uint8 RGB [height, width, 3]."""
    scenes = SyntheticStreets("val", count=8, size=(500, 750))
    tiles = [scenes.image(index) for index in range(8)]
    down, across = -(-size[0] // 500), -(-size[1] // 750)
    rows = [
        np.concatenate([tiles[(row * across + column) % 8] for column in range(across)], axis=1)
        for row in range(down)
    ]
    return np.ascontiguousarray(np.concatenate(rows)[: size[0], : size[1]])


@torch.inference_mode()
def logits_of(
    predictor: Predictor,
    image: np.ndarray,
    size: tuple[int, int],
    *,
    classes: int,
    stride: int,
) -> Tensor:
    """Trained logits [1, classes, h, w], channels-last as a model's are."""
    fed = normalize(torch.from_numpy(image)[None], predictor.recipe.input)
    own = predictor.model(fed).logits
    low = size[0] // stride, size[1] // stride
    own = interpolate(own, size=low, mode="bilinear")
    parts = [own]
    while sum(part.shape[1] for part in parts) < classes:
        parts.append(parts[-1].flip(3 if len(parts) % 2 else 2) - 2)
    full = torch.cat(parts, dim=1)[:, :classes]
    return full.contiguous(memory_format=torch.channels_last)


def compare(
    predictor: Predictor, image: np.ndarray, case: tuple, *, rounds: int
) -> dict[str, object]:
    """Time and memory of both ways in one run, and whether they agree."""
    classes, size, stride = case
    logits = logits_of(predictor, image, size, classes=classes, stride=stride)
    low = logits.shape[2:]

    def ours() -> Tensor:
        down, across = (
            resize_weights(a, b, align_corners=False) for a, b in zip(low, size, strict=True)
        )
        return upsample_argmax(Upsampling(logits[0].permute(1, 2, 0), down, across))

    def theirs() -> Tensor:
        return interpolate(logits, size=size, mode="bilinear").argmax(dim=1)[0]

    ways = {"ours": ours, "theirs": theirs}
    memory = {name: extra_memory(way, "cpu") for name, way in ways.items()}
    seconds = alternating(ways, rounds=rounds)
    differ = int((ours().long() != theirs()).sum())
    return {
        "classes": classes,
        "size": size,
        "stride": stride,
        "seconds": {name: median(values) for name, values in seconds.items()},
        "faster": median(seconds["theirs"]) / median(seconds["ours"]),
        "extra_megabytes": {name: round(value / 1e6) for name, value in memory.items()},
        "pixels_that_differ": differ,
    }


def large(windows: str, side: int, crop: int) -> dict[str, object]:
    """Memory, time and seams of one large image; to be run in a process of its own."""
    torch.set_grad_enabled(False)
    predictor = perpixel.load(
        DEMO,
        precision="auto",
        settings=[f"inference.mode={windows}", f"inference.window_size={crop}x{crop}"],
    )
    scene = image((side, side))
    start = time.perf_counter()
    (found,) = predict_masks(predictor, [scene])
    seconds = time.perf_counter() - start
    peak = proc_status("VmHWM")
    starts = window_starts(side, crop, crop * 2 // 3)
    edges = sorted({place for top in starts for place in (top, top + crop)} - {0, side})
    share = {}
    for axis, name in ((0, "rows"), (1, "columns")):
        changes = (np.diff(found, axis=axis) != 0).mean(axis=1 - axis)
        at_edges = changes[[edge - 1 for edge in edges]].mean()
        share[name] = {"at_window_borders": float(at_edges), "everywhere": float(changes.mean())}
    return {
        "windows": windows,
        "side": side,
        "crop": crop,
        "seconds": seconds,
        "peak_resident_megabytes": round(peak / 1e6),
        "share_of_class_changes": share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=10_000, help="of the large image")
    parser.add_argument("--skip-large", action="store_true")
    given = parser.parse_args()
    if not (DEMO / "checkpoints" / "model.safetensors").exists():
        print("training the demo's model first (two minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "perpixel", "demo", "--out", str(DEMO)], check=True)
    predictor, scenes = perpixel.load(DEMO), SyntheticStreets("val", count=2)
    image, cases = np.concatenate([scenes.image(0), scenes.image(1)], axis=1), []
    for case in CASES:
        cases.append(compare(predictor, image, case, rounds=given.rounds))
        found = cases[-1]
        print(
            f"{found['classes']} classes {found['size']} stride {found['stride']}: "
            f"{found['seconds']} s, {found['faster']:.1f}x faster, extra MB "
            f"{found['extra_megabytes']}, {found['pixels_that_differ']} pixels differ",
            flush=True,
        )
    result: dict[str, object] = {"masks": cases}
    if not given.skip_large:
        images = []
        for windows in ("slide", "blend"):
            images.append(apart(large, windows, given.side, 512))
            print(json.dumps(images[-1]), flush=True)
        result["large"] = images
    print(f"written to {write_result('evaluation', result)}")


if __name__ == "__main__":
    main()
