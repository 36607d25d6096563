"""What helps CamVid's training from random weights: one change at a time, all within one budget.

    python benchmarks/camvid.py changes --data CamVid [--out runs/changes] [--jobs 2]
    python benchmarks/camvid.py page

`changes` takes every change to the plain training through `perpixel train`, for as many pixels
(steps times images times crop; a wider model for fewer, by its multiply-adds), on one core,
`--jobs` at a time. Run again, it goes on where it was. The plain training runs with three seeds:
their spread says which differences mean something. Writes benchmarks/results/camvid/changes.json.
`page` writes the results into docs/camvid.md and docs/camvid.svg.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from measure import RESULTS, write_result
from tables import DOCS, replaced

from perpixel.io.charts import HEIGHT, WIDTH, Chart, charts
from perpixel.reporting.reading import read_source

RECIPE = "camvid/semantic_fpn_r18"
STEPS = 400
PLAIN = (
    "train.batch_size=8",
    "augment.crop_size=128x176",
    "train.final_phase=null",
    "train.ema_decay=0",
    "model.head.fpn_channels=64",
    "model.head.channels=64",
    "model.backbone.zero_init_residual=false",
    "loss.label_smoothing=0",
    "optimizer.decay_norm_and_bias=true",
    "schedule.policy=poly",
    "schedule.warmup=0",
    "evaluate.every=null",
)
RUNS = ("ImageNet",)
"""Runs of camvid/fast, by their initial weights."""

COLORS = ("#37b",)

ENET_WEIGHTS = "[5.6,4.3,33.57,3.34,15.49,8.74,31.54,32.01,12.83,38.01,43.91]"
"""1 / ln(1.02 + p) for every class's share p of the labeled pixels (Paszke et al., 2016)."""

CHANGES = {
    "plain": (),
    "plain, seed 1": ("train.seed=1",),
    "plain, seed 2": ("train.seed=2",),
    "cosine schedule": ("schedule.policy=cosine",),
    "warm-up of 3 %": ("schedule.warmup=0.03",),
    "residual ends start at zero": ("model.backbone.zero_init_residual=true",),
    "label smoothing 0.05": ("loss.label_smoothing=0.05",),
    "class weights as in ENet": (f"loss.class_weights={ENET_WEIGHTS}",),
    "norms and biases do not decay": ("optimizer.decay_norm_and_bias=false",),
    "average of weights, 0.99": ("train.ema_decay=0.99",),
    "AdamW, 0.001": (
        "optimizer.name=adamw",
        "optimizer.lr=0.001",
        "optimizer.weight_decay=0.01",
    ),
    "scale 0.5 to 1": ("augment.scale_range=[0.5,1]",),
    "no random scale": ("augment.scale_range=[1,1]",),
    "two crops of 256x336": ("augment.crop_size=256x336", "train.batch_size=2", "train.steps=419"),
    "head of 256 and 128, 153 steps": (
        "model.head.fpn_channels=256",
        "model.head.channels=128",
        "train.steps=153",
    ),
}


def trained(name: str, *, data: Path, out: Path) -> dict[str, object]:
    """Trains one change on one core, or goes on where it was; its scores."""
    folder = out / name.replace(" ", "-").replace(",", "")
    settings = [f"train.steps={STEPS}", *PLAIN, *CHANGES[name]]
    begun = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "perpixel", "train", RECIPE, "--data", str(data)),
            *("--out", str(folder), "--resume auto", "--device", "cpu"),
            *(f"--set={setting}" for setting in settings),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    scores = json.loads((folder / "evaluate.json").read_text())
    result = {key: scores[key] for key in ("miou", "pixel_accuracy", "mean_accuracy", "iou")}
    print(f"{name:32} {result['miou']:6.2f} {time.perf_counter() - begun:6.0f} s", flush=True)
    return {"settings": CHANGES[name], **result}


def changes_table(result: Mapping[str, Any]) -> str:
    """Every change's scores, the best first, and how far it is from the plain trainings' mean."""
    found = result["changes"]
    plain = [found[name]["miou"] for name in found if name.startswith("plain")]
    lines = [
        f"{len(plain)} plain trainings: mIoU {', '.join(f'{value:.1f}' for value in plain)}, mean "
        f"{mean(plain):.1f}. Each of these is one training:",
        "",
        "| change | mIoU | to the mean | pixel accuracy | mean accuracy |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, scores in sorted(found.items(), key=lambda item: -item[1]["miou"]):
        if not name.startswith("plain"):
            lines.append(
                f"| {name} | {scores['miou']:.1f} | {scores['miou'] - mean(plain):+.1f} | "
                f"{scores['pixel_accuracy']:.1f} | {scores['mean_accuracy']:.1f} |"
            )
    return "\n".join(lines)


def classes_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """IoU and accuracy of every class in each of the runs."""
    titles = [f"{what}, {name}" for what in ("IoU", "accuracy") for name in runs]
    lines = [f"| class | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    for name in next(iter(runs.values()))["iou"]:
        values = [run[key][name] for key in ("iou", "accuracy") for run in runs.values()]
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")
    means = [run[key] for key in ("miou", "mean_accuracy") for run in runs.values()]
    lines.append(f"| mean | {' | '.join(f'**{value:.1f}**' for value in means)} |")
    pixels = ", ".join(f"{run['pixel_accuracy']:.1f}" for run in runs.values())
    return "\n".join([*lines, "", f"Pixel accuracy {pixels}."])


def drawing(found: Sequence[Chart]) -> str:
    """The charts, one below the other, as an SVG image."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT * len(found)}" '
        f'font-family="sans-serif" font-size="11"><rect width="{WIDTH}" '
        f'height="{HEIGHT * len(found)}" fill="white"/>'
    ]
    for place, chart in enumerate(found):
        parts.append(f'<g transform="translate(0,{place * HEIGHT})">')
        parts.append(f'<text x="{WIDTH / 2}" y="11" text-anchor="middle">{chart.title}</text>')
        for y, text in chart.y_ticks:
            parts.append(f'<path d="M58 {y}H{WIDTH - 10}" stroke="#ddd"/>')
            parts.append(f'<text x="54" y="{y + 4}" text-anchor="end">{text}</text>')
        for x, text in chart.x_ticks:
            parts.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>')
        for line, color in zip(chart.lines, COLORS, strict=True):
            points = " ".join(f"{x},{y}" for _, _, x, y in line)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def page() -> dict[Path, str]:
    """The texts of docs/camvid.md and docs/camvid.svg, by their paths."""
    runs = [read_source(RESULTS / "camvid" / name) for name in RUNS]
    scores = {name: run.scores for name, run in zip(RUNS, runs, strict=True)}
    changes = json.loads((RESULTS / "camvid" / "changes.json").read_text())
    text = (DOCS / "camvid.md").read_text()
    text = replaced(text, "changes", written=changes_table(changes))
    text = replaced(text, "classes", written=classes_table(scores))
    shown = [
        chart for chart in charts([run.rows for run in runs]) if chart.title != "Images per second"
    ]
    return {DOCS / "camvid.md": text, DOCS / "camvid.svg": drawing(shown)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True, dest="verb")
    verbs.add_parser("page")
    changes = verbs.add_parser("changes")
    changes.add_argument("--data", type=Path, required=True)
    changes.add_argument("--out", type=Path, default=Path("runs/changes"))
    changes.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.verb == "page":
        for path, text in page().items():
            path.write_text(text)
        return
    with ThreadPoolExecutor(chosen.jobs) as pool:
        results = pool.map(lambda n: trained(n, data=chosen.data, out=chosen.out), CHANGES)
        found = dict(zip(CHANGES, results, strict=True))
    result = {"recipe": RECIPE, "steps": STEPS, "plain": PLAIN, "changes": found}
    print(write_result("camvid/changes", result))


if __name__ == "__main__":
    main()
