"""Class maps against interpolate-then-argmax, and a picture of 100 megapixels in windows.

    python benchmarks/evaluation.py [--model RUN --pictures FOLDER] [--rounds 5] [--skip-large]

The logits are those of a trained network (by default one that `perpixel demo` trains first) on two
pictures of the kind it was trained on, side by side, brought to a stride of the size at hand;
classes beyond its own are its own, mirrored and lowered.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from measure import alternating, median, memory_above, reset_peak_memory, write_result
from torch import Tensor
from torch.nn.functional import interpolate

import perpixel
from perpixel.bilinear import taps
from perpixel.data.scenes import Scenes
from perpixel.images import read_image
from perpixel.inference.class_maps import class_map
from perpixel.inference.enlargement import Enlargement, best_class
from perpixel.inference.predictor import Predictor
from perpixel.inference.windows import window_starts
from perpixel.models.inputs import normalise

CASES = (
    (150, (2000, 3000), 8),
    (150, (2000, 3000), 4),
    (19, (1024, 2048), 8),
    (19, (1024, 2048), 4),
)


def trained(model: str | None) -> str:
    """A trained model: the one named, or the demo's."""
    if model is not None:
        return model
    folder = Path("runs/benchmark-demo")
    if not (folder / "checkpoints" / "model.safetensors").exists():
        print("training the demo's network first (two minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "perpixel", "demo", "--out", str(folder)], check=True)
    found = next(folder.rglob("model.safetensors"))
    return str(found)


def picture(size: tuple[int, int]) -> np.ndarray:
    """Scenes side by side, uint8 RGB [height, width, 3]."""
    scenes = Scenes("val", count=8, size=(500, 750))
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
    """Trained logits [1, classes, h, w], channels-last as a network's are."""
    fed = normalise(torch.from_numpy(image)[None], predictor.recipe.input)
    own = predictor.network(fed).main
    low = size[0] // stride, size[1] // stride
    own = interpolate(own, size=low, mode="bilinear")
    parts = [own]
    while sum(part.shape[1] for part in parts) < classes:
        parts.append(parts[-1].flip(3 if len(parts) % 2 else 2) - 2)
    full = torch.cat(parts, dim=1)[:, :classes]
    return full.contiguous(memory_format=torch.channels_last)


def seen(folder: Path | None) -> np.ndarray:
    """The folder's first two pictures, or two of the demo's scenes, side by side."""
    if folder is None:
        scenes = Scenes("val", count=2)
        return np.concatenate([scenes.image(0), scenes.image(1)], axis=1)
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in {".png", ".jpg"}]
    return np.concatenate([read_image(path) for path in paths[:2]], axis=1)


def compare(
    predictor: Predictor, image: np.ndarray, case: tuple, *, rounds: int
) -> dict[str, object]:
    """Time and memory of both ways in one run, and whether they agree."""
    classes, size, stride = case
    logits = logits_of(predictor, image, size, classes=classes, stride=stride)
    low = logits.shape[2:]

    def ours() -> Tensor:
        down, across = (taps(a, b, align_corners=False) for a, b in zip(low, size, strict=True))
        return best_class(Enlargement(logits[0].permute(1, 2, 0), down, across))

    def theirs() -> Tensor:
        return interpolate(logits, size=size, mode="bilinear").argmax(dim=1)[0]

    memory = {}
    for name, way in (("ours", ours), ("theirs", theirs)):
        reset_peak_memory("cpu")
        before = memory_above(0, "cpu")
        kept = way()
        memory[name] = memory_above(before, "cpu")
        del kept
    seconds = alternating({"ours": ours, "theirs": theirs}, rounds=rounds)
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


def large(model: str, windows: str, *, side: int, crop: int) -> dict[str, object]:
    """Runs in a process of its own: memory, time and seams of one large picture."""
    import resource
    import time

    torch.set_grad_enabled(False)
    predictor = perpixel.load(
        model,
        precision="auto",
        settings=[f"inference.windows={windows}", f"inference.crop={crop}x{crop}"],
    )
    image = picture((side, side))
    start = time.perf_counter()
    found = class_map(predictor.network, image, predictor.recipe, dtype=predictor.dtype)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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
    parser.add_argument("--model", help="a run or checkpoint; by default the demo's is trained")
    parser.add_argument("--pictures", type=Path, help="of the kind the model was trained on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=10_000, help="of the large picture")
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--large-only", metavar="WINDOWS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    model = trained(given.model)
    if given.large_only:
        print(json.dumps(large(model, given.large_only, side=given.side, crop=512)))
        return
    predictor = perpixel.load(model)
    image, cases = seen(given.pictures), []
    for case in CASES:
        cases.append(compare(predictor, image, case, rounds=given.rounds))
        found = cases[-1]
        print(
            f"{found['classes']} classes {found['size']} stride {found['stride']}: "
            f"{found['seconds']} s, {found['faster']:.1f}x faster, extra MB "
            f"{found['extra_megabytes']}, {found['pixels_that_differ']} pixels differ",
            flush=True,
        )
    result: dict[str, object] = {"class_maps": cases}
    if not given.skip_large:
        pictures = []
        for windows in ("slide", "blend"):
            command = [sys.executable, __file__, "--model", model, "--large-only", windows]
            command += ["--side", str(given.side)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            pictures.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(pictures[-1]), flush=True)
        result["large"] = pictures
    print(f"written to {write_result('evaluation', result)}")


if __name__ == "__main__":
    main()
