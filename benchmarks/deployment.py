"""Latency and mIoU of one model in PyTorch, ONNX Runtime and OpenVINO, on the CPU.

    python benchmarks/deployment.py --data CamVid [--model MODEL] [--size 360x480] [--seconds 2]

Exports the model with float32, float16 and INT8 weights, as `perpixel export` does. Each runtime
takes uint8 images of one size to masks: latency is measured on one and on all threads, runtime
after runtime, mIoU on the evaluation split. PyTorch's bfloat16 is left out where the processor is
no faster in it, OpenVINO where it is not installed (`pip install openvino`). Writes
benchmarks/results/deployment.json and its table in docs/deployment.md.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does (cli/main.py)

import numpy as np
import torch
from measure import RESULTS, digits, write_result
from tables import DOCS, replaced

import perpixel
from perpixel.checkpoints import zoo
from perpixel.cli.options import progress_bar, read_size
from perpixel.data.augment import resize
from perpixel.data.dataset import read_pair
from perpixel.data.prefetch import cores
from perpixel.data.registry import open_dataset
from perpixel.evaluation.metrics import confusion, scores
from perpixel.exporting.check import onnx_runner
from perpixel.exporting.graph import make_graph
from perpixel.io.images import Array, Size
from perpixel.profiling.latency import latency
from perpixel.runtime.dtype import resolve_dtype
from perpixel.runtime.heap import keep_freed

Masks = Callable[[Array], Array]
"""From a uint8 RGB image [H, W, 3] to its mask [H, W]."""

CPU = torch.device("cpu")
BASELINE = "ONNX Runtime, float32"
FILES = {"float32": {}, "float16 weights": {"half": True}, "INT8": {"int8": True}}
"""What `perpixel.export` is asked for, by the file's name."""


def runtimes(model: str, folder: Path, *, threads: int) -> dict[str, Masks]:
    """Every runtime, on so many threads."""
    torch.set_num_threads(threads)
    made: dict[str, Masks] = {}
    fast = resolve_dtype("auto", CPU) is torch.bfloat16
    for precision in ("float32", "bfloat16") if fast else ("float32",):
        predictor = perpixel.load(model, device="cpu", precision=precision)
        made[f"PyTorch, {precision}"] = lambda image, one=predictor: one.predict(image).mask
    graph = make_graph(zoo.find(model), logits=False)
    for name in FILES:
        run = onnx_runner((folder / f"{name}.onnx").read_bytes(), graph)
        made[f"ONNX Runtime, {name}"] = lambda image, run=run: run(graph.preprocess(image))[0][0]
    if find_spec("openvino"):
        for name, file in (("float32", "float32"), ("bfloat16", "float32"), ("INT8", "INT8")):
            precision = "bf16" if name == "bfloat16" else "f32"
            network = _openvino(folder / f"{file}.onnx", threads=threads, precision=precision)
            made[f"OpenVINO, {name}"] = lambda image, one=network: one(image[None])["mask"][0]
    return made


def _openvino(path: Path, *, threads: int, precision: str) -> Callable[[Array], Any]:
    import openvino

    return openvino.compile_model(
        path,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,  # where AMX is, bfloat16 would be the default
        },
    )


def mious(ways: Mapping[str, Masks], model: str, data: Path, *, size: Size) -> dict[str, float]:
    """The mIoU of every runtime on the evaluation split, its images of `size`."""
    recipe = zoo.find(model).recipe
    dataset = open_dataset(recipe.data.name, data, recipe.data.eval_split)
    names = dataset.classes.names
    matrices = {name: np.zeros((len(names), len(names)), np.int64) for name in ways}
    with progress_bar("mIoU") as update:
        for index in range(len(dataset)):
            image, label = resize(*read_pair(dataset, index), size)
            for name, way in ways.items():
                matrices[name] += confusion(label, way(image), num_classes=len(names))
            update(index + 1, len(dataset))
    return {name: scores(matrix, names=names).miou for name, matrix in matrices.items()}


def table(result: Mapping[str, Any]) -> str:
    """The rows of a result file; "times" compares the median on all threads with BASELINE."""
    machine, rows = result["machine"], result["runtimes"]
    counts = list(rows[BASELINE]["latency_ms"])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    heads = [f"{count} thread{'s' * (count != '1')}: p50, p90" for count in counts]
    lines = [
        f"`python {result['command']}` on {machine['cpu']}, {machine['cores']} cores, {versions}:",
        "",
        f"| | file | mIoU | {' | '.join(heads)} | times faster |",
        f"|---|---:|---:|{'---:|' * len(heads)}---:|",
    ]
    baseline = rows[BASELINE]["latency_ms"][counts[-1]]["p50"]
    for name, row in rows.items():
        times = [f"{digits(one['p50'])}, {digits(one['p90'])} ms"
                 for one in row["latency_ms"].values()]  # fmt: skip
        faster = baseline / row["latency_ms"][counts[-1]]["p50"]
        file = f"{row['file_mb']:.1f} MB" if "file_mb" in row else ""
        lines.append(
            f"| {name} | {file} | {row['miou']:.2f} | {' | '.join(times)} | {faster:.2f} |"
        )
    return "\n".join(lines)


def page() -> str:
    """docs/deployment.md with the table of the result that is kept."""
    result = json.loads((RESULTS / "deployment.json").read_text())
    text = (DOCS / "deployment.md").read_text()
    return replaced(text, "deployment", written=table(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the data set's root")
    parser.add_argument("--model", default=str(RESULTS / "camvid/fast.safetensors"))
    parser.add_argument("--size", default="360x480", help="of the images, HEIGHTxWIDTH")
    parser.add_argument("--seconds", type=float, default=2, help="the longest time of a trial")
    chosen = parser.parse_args()
    keep_freed()  # as the command line does
    size = read_size(chosen.size, "--size")
    measured: dict[str, dict[str, Any]] = {}
    bytes_of: dict[str, int] = {}
    with TemporaryDirectory() as name, progress_bar("export") as update:
        folder = Path(name)
        export = partial(perpixel.export, chosen.model, size=size, seconds=0, progress=update)
        for file, words in FILES.items():
            data = chosen.data if file == "INT8" else None
            path = export(folder / f"{file}.onnx", **words, data=data).path
            bytes_of[f"ONNX Runtime, {file}"] = path.stat().st_size
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        for threads in sorted({1, cores()}):
            ways = runtimes(chosen.model, folder, threads=threads)
            for way_name, way in ways.items():
                found = latency(partial(way, image), CPU, seconds=chosen.seconds)
                print(f"{threads}: {way_name:24} {digits(found.p50)}, {digits(found.p90)} ms")
                row = measured.setdefault(way_name, {}).setdefault("latency_ms", {})
                row[str(threads)] = {"p50": found.p50, "p90": found.p90}
        for way_name, miou in mious(ways, chosen.model, chosen.data, size=size).items():
            measured[way_name]["miou"] = miou
            if way_name in bytes_of:
                measured[way_name]["file_mb"] = bytes_of[way_name] / 1e6
    libraries = ("torch", "onnxruntime", *(["openvino"] if find_spec("openvino") else []))
    versions = {library: version(library) for library in libraries}
    result = {"model": Path(chosen.model).stem, "versions": versions, "runtimes": measured}
    print(write_result("deployment", {**result, "size": list(size)}))
    (DOCS / "deployment.md").write_text(page())
    print(table(json.loads((RESULTS / "deployment.json").read_text())))


if __name__ == "__main__":
    main()
