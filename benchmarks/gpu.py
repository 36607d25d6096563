"""What is to be shown on a GPU, in five items of one command each.

    python benchmarks/gpu.py works
    python benchmarks/gpu.py speed
    python benchmarks/gpu.py inference
    python benchmarks/gpu.py camvid --camvid CamVid
    python benchmarks/gpu.py data --camvid CamVid

`works`: the tests of a GPU, the demo in four precisions, kernels against float64 on the CPU, two
deterministic runs, one that is killed and resumed, two ranks on one GPU. `speed`: training steps of
the published shapes beside mmsegmentation and torchvision (benchmarks/peers.py), with peak memory
and the share of what a large bfloat16 product reaches. `inference`: images per second, upsampling
and argmax included. `camvid`: full trainings from random weights. `data`: images per second of the
loader beside what the GPU takes (run `speed` first).

An item is a list of steps. What a step found is kept in OUT/ITEM-DEVICE.json at once: no step
begins after --limit seconds, the same command goes on with those that are missing or failed, and
every command writes benchmarks/results/gpu_ITEM-GPU.json with what there is. Exit code 1 when
steps failed or a goal is missed. `--quick` is a dry run with tiny shapes for any device, whose
figures say nothing; its results stay in OUT.

    python benchmarks/gpu.py pack --camvid CamVid --out small/CamVid

copies CamVid with training images as JPEG, which takes half the space, to bring it to a machine.
"""

import argparse
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import torch
from data import KINDS
from measure import alternating, apart, record, write_result
from networks import ON_CUDA, operations
from peers import worker
from release import RANKS_STEPS, RANKS_TOLERANCE, read_losses, read_scores
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

import perpixel
from perpixel.acceleration.accelerate import accelerate
from perpixel.data.cache import write_cache
from perpixel.data.loader import batches
from perpixel.data.registry import open_dataset, open_pairs
from perpixel.errors import Interrupted
from perpixel.inference.predictor import Predictor
from perpixel.inference.tta import predict_masks
from perpixel.io.images import read_image
from perpixel.models.build import build
from perpixel.models.normalize import normalize
from perpixel.ops.bilinear import ResizeWeights, resize_weights
from perpixel.ops.fused_cross_entropy import pixel_cross_entropy
from perpixel.ops.upsample_argmax import Upsampling, upsample_argmax
from perpixel.recipes.schema import IGNORE_INDEX
from perpixel.runtime.dtype import autocast, cudnn_mode, no_kernel_search, resolve_dtype

ROOT = Path(__file__).parents[1]
Found = Mapping[str, Any]
"""What the finished steps found, by their names."""


class Goal(NamedTuple):
    """What a figure should be, what it is, and whether that is enough."""

    goal: str
    value: float
    met: bool


class OutOfTime(Exception):
    """A step that stopped at the command's limit, to be gone on with by the next command."""


class Item(NamedTuple):
    """Steps by name, and what their results come to: records for tables.py, and goals."""

    steps: Mapping[str, Callable[[], Any]]
    report: Callable[[Found], tuple[list[Any], list[Goal]]]


# 1. It works

PRECISIONS = ("bfloat16", "float16", "tf32", "float32")
LEAST_MIOU = 80.0
DEMO = "scenes/semantic_fpn_r18"
SHORT = ("train.save_every=20", "train.log_every=1", "evaluate.every=null")
KERNEL_LIMITS = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 5e-3}
"""Largest error of a gradient, as a share of the largest gradient; it is rounded to its type."""


def works(asked: argparse.Namespace) -> Item:
    steps: dict[str, Callable[[], Any]] = {"tests": partial(failed_tests, asked)}
    for precision in PRECISIONS:
        steps[f"demo, {precision}"] = partial(demo_miou, precision, asked)
    for name in KERNEL_LIMITS:
        steps[f"kernels, {name}"] = partial(kernel_errors, name, asked)
    steps |= {
        "deterministic twice": partial(differing, asked, partial(train_again, asked)),
        "killed and resumed": partial(differing, asked, partial(kill_and_resume, asked)),
        "two ranks on one device": partial(two_ranks, asked),
    }

    def report(found: Found) -> tuple[list[Any], list[Goal]]:
        mious = {p: [found[f"demo, {p}"]] for p in PRECISIONS if f"demo, {p}" in found}
        goals = [Goal(f"demo, {p}: mIoU above {LEAST_MIOU:.0f}", v, v > LEAST_MIOU)
                 for p, (v,) in mious.items()]  # fmt: skip
        records = [record("demo", "miou", mious)] if mious else []
        for name, limit in KERNEL_LIMITS.items():
            if errors := found.get(f"kernels, {name}"):
                most = {"loss": 1e-5, "gradient": limit, "mask": 0.0}
                worst = {what: largest(error for case, error in errors.items() if what in case)
                         for what in most}  # fmt: skip
                lines = {what: [error] for what, error in worst.items()}
                records.append(record(f"kernels, {name}: largest errors", "ratio", lines))
                goals += [Goal(f"kernels, {name}: {what} within {most[what]}", error,
                               error <= most[what]) for what, error in worst.items()]  # fmt: skip
        for name, most in (("tests", 0), ("deterministic twice", 0), ("killed and resumed", 0),
                           ("two ranks on one device", RANKS_TOLERANCE)):  # fmt: skip
            if name in found:
                goals.append(Goal(f"{name}: at most {most}", found[name], found[name] <= most))
        return records, goals

    return Item(steps, report)


def failed_tests(asked: argparse.Namespace) -> int:
    """How many of the tests that a GPU is held to failed."""
    files = [str(ROOT / "tests" / name) for name in ("test_gpu.py", "ops/triton")]
    less = ["-k", "float32_is_float32"] if asked.quick else ["-n", "4"]
    words = [*files, *less, "-p", "no:cacheprovider", f"--junitxml={asked.out / 'tests.xml'}"]
    environment = {**os.environ, "PERPIXEL_TEST_DEVICE": asked.device}
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with exit code {done.returncode}")
    cases = list(ElementTree.parse(asked.out / "tests.xml").iter("testcase"))
    if all(case.find("skipped") is not None for case in cases):
        raise RuntimeError(f"of {len(cases)} tests none ran")
    return sum(case.find("failure") is not None or case.find("error") is not None for case in cases)


def demo_miou(precision: str, asked: argparse.Namespace) -> float:
    quick = ["train.steps=2", "augment.crop_size=32x32"] if asked.quick else []
    recipe = perpixel.override(perpixel.recipe(DEMO), [f"train.precision={precision}", *quick])
    run = fresh(asked.out / f"demo-{precision}")
    return perpixel.train(recipe, out=run, device=asked.device, quiet=True).scores.miou


def kernel_errors(name: str, asked: argparse.Namespace) -> dict[str, float]:
    """Relative errors of loss and gradient, and the share of wrong pixels of a mask, against
    interpolate in float64 on the CPU; odd sizes, a fifth of the labels ignored."""
    dtype, errors = getattr(torch, name), {}
    small, large = ((3, 5), (7, 11)) if asked.quick else ((17, 23), (131, 181))
    for classes in (2, 19, 150, 254):
        for align in (False, True):
            torch.manual_seed(classes)
            logits = (3 * torch.randn(2, classes, *small)).to(dtype)
            logits = logits.contiguous(memory_format=torch.channels_last)
            labels = torch.randint(0, classes, (2, *large), dtype=torch.uint8)
            labels[torch.rand(labels.shape) < 0.2] = IGNORE_INDEX
            exact = logits.double().requires_grad_()
            full = interpolate(exact, size=large, mode="bilinear", align_corners=align)
            losses = cross_entropy(full, labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
            losses.sum().backward()
            ours = logits.to(asked.device).requires_grad_()
            found = pixel_cross_entropy(ours, labels.to(asked.device), align_corners=align)
            found.sum().backward()
            rows, columns = (
                resize_weights(a, b, align_corners=align) for a, b in zip(small, large, strict=True)
            )
            image = ours.detach()[0].permute(1, 2, 0)
            mask = upsample_argmax(Upsampling(image, rows, columns)).cpu()
            best = full[0].topk(2, dim=0).values
            sure = best[0] - best[1] > 1e-5  # nearer scores may be rounded to either
            case = f"{classes} classes{', align_corners' * align}"
            errors |= {
                f"loss, {case}": largest_error(found, losses),
                f"gradient, {case}": largest_error(ours.grad, exact.grad),
                f"mask, {case}": (mask != full[0].argmax(0))[sure].double().mean().item(),
            }
    return errors


def largest(values: Iterable[float]) -> float:
    """The largest value, or NaN where there is one, which `max` may pass over."""
    return torch.tensor(list(values), dtype=torch.float64).max().item()


def largest_error(found: Tensor | None, wanted: Tensor | None) -> float:
    assert found is not None
    assert wanted is not None
    return ((found.cpu().double() - wanted).abs().max() / wanted.abs().max()).item()


def train_short(out: Path, device: str, quick: bool, resume: str) -> None:
    steps = ["train.steps=6", "train.batch_size=2", "augment.crop_size=32x32", "train.save_every=2"]
    settings = [*SHORT, "train.steps=300", *(steps if quick else [])]
    recipe = perpixel.override(perpixel.recipe(DEMO), settings)
    how = {"deterministic": True, "resume": resume, "quiet": True}
    perpixel.train(recipe, out=out, device=device, **how)


def train_again(asked: argparse.Namespace, other: Path) -> None:
    apart(train_short, other, asked.device, asked.quick, "never")


def kill_and_resume(asked: argparse.Namespace, other: Path) -> None:
    words = ["-c", "import sys; from gpu import *; train_short(Path(sys.argv[1]), sys.argv[2], "
             "sys.argv[3] == 'quick', 'never')",
             str(other), asked.device, "quick" if asked.quick else "full"]  # fmt: skip
    paths = os.pathsep.join((str(Path(__file__).parent), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen([sys.executable, *words], env=environment) as process:
        while process.poll() is None and not list(other.glob("checkpoints/last*.safetensors")):
            time.sleep(0.001)
        process.kill()
    if (other / "checkpoints" / "model.safetensors").exists() or process.returncode != -9:
        raise RuntimeError(f"{other}: the run ended ({process.returncode}) before it was killed")
    apart(train_short, other, asked.device, asked.quick, "must")


def differing(asked: argparse.Namespace, make_other: Callable[[Path], None]) -> int:
    """How many tensors of two runs' final weights are not equal, bit for bit."""
    whole, other = asked.out / "whole", fresh(asked.out / "other")
    final = Path("checkpoints") / "model.safetensors"
    if not (whole / final).exists():
        apart(train_short, fresh(whole), asked.device, asked.quick, "never")
    make_other(other)
    ours, theirs = (perpixel.load_model(run / final).state_dict() for run in (whole, other))
    return sum(not torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def train_rank(rank: int, ranks: int, port: int, out: Path, device: str) -> dict[int, float]:
    """Losses of four steps; all ranks share one device, and gloo joins them."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
    recipe = perpixel.override(perpixel.recipe(DEMO), RANKS_STEPS)
    perpixel.train(recipe, out=out, device=device, quiet=True)
    return read_losses(out)


def two_ranks(asked: argparse.Namespace) -> float:
    """The largest relative difference of a step's loss between one rank and two."""
    from concurrent.futures import ThreadPoolExecutor
    from socket import socket

    one, two = (fresh(asked.out / f"ranks-{count}") for count in (1, 2))
    losses = apart(train_rank, 0, 1, 0, one, asked.device)
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        joined, _ = pool.map(
            lambda rank: apart(train_rank, rank, 2, port, two, asked.device), (0, 1)
        )
    return largest(abs(joined[step] / losses[step] - 1) for step in losses)


# 2. Training speed and memory

TRAINED = {name: model for name, model in ON_CUDA.items() if "1024x2048" not in name}
LARGER = {"VOC": 16, "Cityscapes": 8}
"""A second batch size of FCN's."""
WAYS: dict[str, tuple[str, ...]] = {
    "perpixel": (),
    "perpixel, loss not fused": (),
    "perpixel, checkpointing norms": ("train.activation_checkpointing=norms",),
    "perpixel, checkpointing stages": ("train.activation_checkpointing=stages",),
    "perpixel, compiled": ("train.compile=default",),
    "perpixel, compiled, CUDA graphs": ("train.compile=reduce-overhead",),
}
TINY = {"recipe": "scenes/fcn_r18-d8", "classes": 19, "size": (32, 64), "batch": 2}


def speed(asked: argparse.Namespace) -> Item:
    """The shapes with their goals first, compiling, which takes minutes, last."""
    models = {}
    for name, model in TRAINED.items():
        larger = [size for data, size in LARGER.items() if data in name]
        for batch in (model["batch"], *larger):
            models[f"{name}, batch {batch}"] = {**model, "batch": batch}
    if asked.quick:
        models = {"FCN R-50, tiny": TINY}
    others = [] if asked.quick else ["mmsegmentation"]
    order = [(name, way) for name in models for way in (*others, "perpixel")]
    order += [(name, "torchvision") for name in models if "FCN R-50" in name and "VOC" in name]
    few = [name for name in models if "R-50" in name]
    ways = list(WAYS)[1:4] if asked.quick else list(WAYS)[1:]
    order += [(name, way) for way in ways for name in few]
    workers = Workers(asked)
    steps: dict[str, Callable[[], Any]] = {"product": partial(product_rate, workers)}
    for name, way in order:
        steps[f"{name}: {way}"] = partial(train_speed, workers, models[name], way)

    def report(found: Found) -> tuple[list[Any], list[Goal]]:
        records, goals = [], []
        for name, model in models.items():
            kept = {way: found[f"{name}: {way}"] for title, way in order
                    if title == name and f"{name}: {way}" in found}  # fmt: skip
            if not kept:
                continue
            seconds = {way: one["seconds"] for way, one in kept.items()}
            memory = {way: [one["bytes"]] for way, one in kept.items()}
            rates = {way: [model["batch"] / one for one in several]
                     for way, several in seconds.items()}  # fmt: skip
            records += [
                record(f"step: {name}", "seconds", seconds),
                record(f"images: {name}", "per_second", rates, against=""),
                record(f"peak memory: {name}", "bytes", memory),
            ]
            if "product" in found:
                work = operations({"settings": (), **model})
                shares = {way: [work / one / found["product"] for one in several]
                          for way, several in seconds.items()}  # fmt: skip
                title = f"share of matrix products: {name}"
                records.append(record(title, "share", shares, against=""))
                best = max(median(values) for way, values in shares.items() if "perpixel" in way)
                goals.append(Goal(f"{name}: 40 % of matrix products", best, best >= 0.4))
            if "mmsegmentation" in kept and "perpixel" in kept:
                less = median(seconds["mmsegmentation"]) / median(seconds["perpixel"])
                goals.append(Goal(f"{name}: 1.5 times mmsegmentation's speed", less, less >= 1.5))
                if "ADE20K" in name:
                    share = memory["perpixel"][0] / memory["mmsegmentation"][0]
                    title = f"{name}: half of mmsegmentation's memory"
                    goals.append(Goal(title, share, share <= 0.5))
        return records, goals

    return Item(steps, report)


class Workers:
    """A process for each toolkit, started when it is first asked and kept for all its cases."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.device, self.rounds = asked.device, 2 if asked.quick else 10
        self.stack = ExitStack()
        self.asks: dict[str, Callable[..., float]] = {}
        asked.at_end.callback(self.stack.close)

    def measure(self, subject: str, what: str, case: Mapping[str, Any]) -> dict[str, Any]:
        """Seconds of each round after three that warm up, and the most bytes held in them."""
        if subject not in self.asks:
            self.asks[subject] = self.stack.enter_context(worker(subject))
        ask = self.asks[subject]
        try:
            ask("make", what=what, case={**case, "device": self.device})
            for _ in range(3):
                ask("run")
            ask("reset")
            seconds = [ask("run") for _ in range(self.rounds)]
            return {"seconds": seconds, "bytes": ask("memory")}
        except (SystemExit, BrokenPipeError):
            del self.asks[subject]  # it may have ended; the next case begins a new one
            raise


def product_rate(workers: Workers) -> float:
    """Operations per second of the product of two square bfloat16 matrices."""
    side = 8192 if workers.device != "cpu" else 256
    found = workers.measure("perpixel", "product", {"side": side})
    return 2 * side**3 / median(found["seconds"])


def train_speed(workers: Workers, model: Mapping[str, Any], way: str) -> dict[str, Any]:
    subject = {"mmsegmentation": "mmseg", "torchvision": "torchvision"}.get(way, "perpixel")
    settings = [*model.get("settings", ()), "train.precision=bfloat16", *WAYS.get(way, ())]
    case = {**model, "settings": settings, "fused_loss": "not fused" not in way}
    return workers.measure(subject, "training_step", case)


# 3. Inference

PREDICTED = {
    "FCN R-50-D8": ("mmseg/fcn_r50-d8_512x1024_40k_cityscapes", 19),
    "FCN R-18-D8": ("mmseg/fcn_r18-d8_512x1024_80k_cityscapes", 19),
    "Semantic FPN R-50": ("sssegmentation/semanticfpn_resnet50_cityscapes", 19),
}
PASSES = ("eager", "perpixel.load", "CUDA graph", "compiled", "compiled, CUDA graph")
GOAL_FPS = 100


def inference(asked: argparse.Namespace) -> Item:
    predicted = {"tiny": ("scenes/fcn_r18-d8", 19)} if asked.quick else PREDICTED
    sizes = ((32, 64),) if asked.quick else ((512, 1024), (1024, 2048))
    passes = PASSES[:2] if asked.quick else PASSES
    titles = {f"{name}, {size[0]}x{size[1]}": (model, size)
              for name, model in predicted.items() for size in sizes}  # fmt: skip
    steps = {
        f"{title}: {way}": partial(frames, *titles[title], way, asked)
        for way in passes
        for title in titles
    }

    def report(found: Found) -> tuple[list[Any], list[Goal]]:
        records, goals = [], []
        for title in titles:
            kept = {way: found[f"{title}: {way}"] for way in passes if f"{title}: {way}" in found}
            if not kept:
                continue
            rates = {way: [1 / seconds for seconds in one["seconds"]] for way, one in kept.items()}
            records.append(record(f"masks: {title}", "per_second", rates))
            differ = {way: [one["differ"]] for way, one in kept.items()}
            records.append(record(f"pixels unlike eager: {title}", "share", differ))
            if title == "FCN R-50-D8, 1024x2048":
                best = max(median(values) for values in rates.values())
                goals.append(Goal(f"{title}: {GOAL_FPS} per second", best, best >= GOAL_FPS))
        return records, goals

    return Item(steps, report)


@torch.inference_mode()
def frames(
    model: tuple[str, int], size: tuple[int, int], way: str, asked: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of each pass in bfloat16 from one uint8 image to its mask, and the share of pixels
    that differ from the eager pass.

    Image and mask are on the device, but for "perpixel.load", which is `Predictor.predict` from
    host to host.
    """
    recipe, classes = perpixel.recipe(model[0]), model[1]
    device, dtype = (
        torch.device(asked.device),
        resolve_dtype("bfloat16", torch.device(asked.device)),
    )
    torch.compiler.reset()  # or dynamo would count the models before
    torch.manual_seed(0)
    plain = build(recipe.model, num_classes=classes)
    images = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    on_device = images.to(device)

    def pass_of(compiled: bool) -> Callable[[Tensor], Tensor]:
        compile = "default" if compiled else "off"
        fast = accelerate(plain, device=device, dtype=dtype, training=False, compile=compile)
        return partial(pixels_to_mask, fast, recipe.model.align_corners, size, {})

    with cudnn_mode(deterministic=False):
        eager = pass_of(compiled=False)
        wanted = eager(normalize(on_device, recipe.input)).clone()
        chosen = pass_of(compiled=True) if "compiled" in way else eager
        if "CUDA graph" in way:
            chosen = captured(chosen, normalize(on_device, recipe.input))

        def run() -> Tensor:
            return chosen(normalize(on_device, recipe.input))

        if way == "perpixel.load":
            fast = accelerate(plain, device=device, dtype=dtype, training=False)
            names = tuple(map(str, range(classes)))
            predictor = Predictor(fast, recipe, class_names=names, palette=(), dtype=dtype)

            def run() -> Tensor:
                with no_kernel_search():
                    return torch.from_numpy(predict_masks(predictor, [images[0].numpy()])[0])

        differ = (run().cpu() != wanted.cpu()).double().mean().item()
        rounds = 2 if asked.quick else 50
        seconds = alternating({way: run}, rounds=rounds, warm_up=1 if asked.quick else 5)[way]
    return {"seconds": seconds, "differ": differ}


def pixels_to_mask(
    model: Callable[[Tensor], Any], align: bool, size: tuple[int, int],
    tables: dict[int, ResizeWeights], pixels: Tensor,
) -> Tensor:  # fmt: skip
    """Normalized pixels [1, 3, H, W] to a mask [H, W]. The tables of the first pass are kept on the
    device: a graph cannot copy them from the host."""
    with autocast(pixels.device, torch.bfloat16):
        logits = model(pixels).logits[0].permute(1, 2, 0)
    for axis in (0, 1):
        if axis not in tables:
            table = resize_weights(logits.shape[axis], size[axis], align_corners=align)
            if pixels.is_cuda:  # in the types that the kernel reads
                first = table.first.to(pixels.device, torch.int32)
                weights = table.weights.to(pixels.device, torch.float32)
                table = ResizeWeights(table.small, first, weights)
            tables[axis] = table
    return upsample_argmax(Upsampling(logits, tables[0], tables[1]))


def captured(work: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[Tensor], Tensor]:
    """`work` as one CUDA graph, replayed on whatever pixels it is given."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # kernels are searched and compiled before
            work(pixels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask = work(pixels)

    def replay(others: Tensor) -> Tensor:
        pixels.copy_(others)
        graph.replay()
        return mask

    return replay


# 4. CamVid from random weights

RUNS = (("semantic_fpn_r18", 0), ("fcn_r50-d8", 0), ("semantic_fpn_r18", 1),
        ("semantic_fpn_r18", 2), ("fcn_r50-d8", 1), ("fcn_r50-d8", 2))  # fmt: skip
"""Recipes and seeds, in the order in which time is given to them."""


def camvid(asked: argparse.Namespace) -> Item:
    runs = RUNS[:1] if asked.quick else RUNS
    steps: dict[str, Callable[[], Any]] = {
        f"{name}, seed {seed}": partial(train_camvid, name, seed, asked) for name, seed in runs
    }

    def report(found: Found) -> tuple[list[Any], list[Goal]]:
        records = []
        for title, key in (("val", "miou"), ("val, scales and flip", "miou_ms_flip")):
            if values := {name: [one[key]] for name, one in found.items()}:
                records.append(record(f"CamVid, {title}", "miou", values))
        return records, []

    return Item(steps, report)


def train_camvid(name: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Scores of a run's best weights, and mIoU by step; the weights as float16 in OUT."""
    settings = [f"train.seed={seed}"]
    if asked.quick:
        settings += ["train.steps=2", "train.batch_size=2", "augment.crop_size=32x32",
                     "train.final_phase=null", "evaluate.every=null"]  # fmt: skip
    recipe = perpixel.override(perpixel.recipe(f"camvid/{name}"), settings)
    out = asked.out / f"camvid-{name}-{seed}"
    begun = time.monotonic()
    if asked.deadline - begun < 30:
        raise OutOfTime("too little time is left to go on with a training")
    with stopped_at(asked.deadline):
        try:
            run = perpixel.train(recipe, data=asked.camvid, out=out, device=asked.device,
                                 resume="auto")  # fmt: skip
        except Interrupted as error:
            raise OutOfTime(str(error)) from None
    scales = "[0.5,0.75,1,1.25,1.5,1.75]"
    settings = [f"inference.scales={scales}", "inference.flip=true"]
    model = perpixel.load(out, device=asked.device, settings=settings)
    words = ["convert", str(out), str(asked.out / f"{out.name}.safetensors"), "--half"]
    subprocess.run([sys.executable, "-m", "perpixel", *words], check=True)
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {
        "miou": read_scores(out / "evaluate.json")["miou"],
        "miou_of_final_weights": run.scores.miou,
        "miou_ms_flip": perpixel.evaluate(model, data=asked.camvid).miou,
        "curve": [(row["step"], row["miou"]) for row in rows if "miou" in row],
        "seconds_of_last_command": time.monotonic() - begun,
    }


@contextmanager
def stopped_at(deadline: float) -> Iterator[None]:
    """Context that is sent SIGTERM at the deadline: a run in it is saved and ends."""
    timer = threading.Timer(deadline - time.monotonic(), os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# 5. The data path

WORKERS = (1, 8, 16)


def data(asked: argparse.Namespace) -> Item:
    workers = (0, 1) if asked.quick else WORKERS
    steps = {
        f"{name}: {source}, {count} workers": partial(load, kind, source, count, asked)
        for name, kind in KINDS.items()
        for source in ("files", "cache")
        for count in workers
    }
    takes = {"pascal_voc": "FCN R-50-D8, VOC, 512x512, batch 16: perpixel",
             "cityscapes": "FCN R-50-D8, Cityscapes, 512x1024, batch 8: perpixel"}  # fmt: skip

    def report(found: Found) -> tuple[list[Any], list[Goal]]:
        records, goals = [], []
        measured = read_kept(kept_in("speed", asked))
        for name, kind in KINDS.items():
            lines = {title.removeprefix(f"{name}: "): [rate] for title, rate in found.items()
                     if title.startswith(name)}  # fmt: skip
            best = max((rate for (rate,) in lines.values()), default=0.0)
            title = takes[kind["dataset"]]
            if title in measured:
                batch = int(title.split("batch ")[1].split(":")[0])
                rate = batch / median(measured[title]["seconds"])
                lines["the GPU takes"] = [rate]
                goals.append(Goal(f"{name}: {rate:.0f} images per second", best, best >= rate))
            if lines:
                records.append(record(f"loader: {name}", "per_second", lines))
        return records, goals

    return Item(steps, report)


def load(kind: Mapping[str, Any], source: str, workers: int, asked: argparse.Namespace) -> float:
    """Images per second of the loader in batches of 16, files in the page cache."""
    files = 2 if asked.quick else 48
    root = kind["write"](asked.camvid, asked.out / f"{kind['dataset']}-{files}", count=files)
    if source == "cache":
        cache = root.with_name(f"{root.name}-cache")
        pairs = {"train": open_pairs(kind["dataset"], root, "train")}
        write_cache(cache, kind["dataset"], pairs, say=print, progress=lambda *_: None)
        root = cache
    batch = 2 if asked.quick else 16
    settings = [f"train.batch_size={batch}", "train.steps=1000000"]
    recipe = perpixel.override(perpixel.recipe(kind["recipe"]), settings)
    opened = open_dataset(recipe.data.name, root, "train")
    pin = asked.device.startswith("cuda")
    stream = batches(opened, recipe, first_step=0, workers=workers, pin_memory=pin)
    for _ in range(1 if asked.quick else 8 * max(workers, 2)):  # more than workers read ahead
        next(stream)
    taken, begun = 0, time.perf_counter()
    while taken == 0 or time.perf_counter() - begun < (0 if asked.quick else 8):
        taken += len(next(stream).labels)
    rate = taken / (time.perf_counter() - begun)
    del stream
    gc.collect()  # ends the workers
    return rate


# What items share

ITEMS = {"works": works, "speed": speed, "inference": inference, "camvid": camvid, "data": data}


def fresh(folder: Path) -> Path:
    """The folder without what an earlier try left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def kept_in(item: str, asked: argparse.Namespace) -> Path:
    return asked.out / f"{item}-{asked.device.replace(':', '')}{'-quick' * asked.quick}.json"


def read_kept(file: Path) -> dict[str, Any]:
    """What finished steps found; those that failed are left out."""
    results = json.loads(file.read_text()) if file.exists() else {}
    return {name: one["found"] for name, one in results.items() if "found" in one}


def go_through(item: Item, file: Path, asked: argparse.Namespace) -> list[str]:
    """Does the steps that are not done yet, until the deadline. Returns what is to be said of the
    others: failures, and how many remain."""
    results = {name: {"found": found} for name, found in read_kept(file).items()}
    todo = [name for name in item.steps if name not in results and asked.only in name]
    for number, name in enumerate(todo, 1):
        if time.monotonic() > asked.deadline:
            break
        print(f"[{number}/{len(todo)}] {name}", flush=True)
        try:
            results[name] = {"found": item.steps[name]()}
        except OutOfTime as error:
            print(error)
            break
        except (Exception, SystemExit) as error:  # the other steps are still to be done
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
            print(f"FAILED: {results[name]['failed']}", flush=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    failures = [f"{name}: {results[name]['failed'].splitlines()[-1]}" for name in todo
                if "failed" in results.get(name, {})]  # fmt: skip
    remaining = sum(name not in results for name in todo)
    return failures + [f"{remaining} steps remain: run the same command again"] * bool(remaining)


def pack(camvid: Path, out: Path) -> None:
    """Copies CamVid with training images as JPEG, quality 90; the others stay PNG."""
    for name in ("trainannot", "val", "valannot"):
        shutil.copytree(camvid / name, out / name, dirs_exist_ok=True)
    (out / "train").mkdir(exist_ok=True)
    for image in sorted((camvid / "train").glob("*.png")):
        pixels = cv2.cvtColor(read_image(image), cv2.COLOR_RGB2BGR)
        target = str(out / "train" / f"{image.stem}.jpg")
        cv2.imwrite(target, pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    listing = (camvid / "train.txt").read_text()
    (out / "train.txt").write_text(listing.replace(".png /", ".jpg /"))
    shutil.copy(camvid / "val.txt", out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("item", choices=[*ITEMS, "pack"])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a dry run")
    parser.add_argument("--camvid", type=Path, help="CamVid's root folder")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="what steps found, runs")
    parser.add_argument("--limit", type=float, default=540, help="seconds (540)")
    parser.add_argument("--only", default="", help="steps whose name holds this text")
    parser.add_argument("--quick", action="store_true", help="a dry run with tiny shapes")
    asked = parser.parse_args()
    if asked.item in ("camvid", "data", "pack") and not (asked.camvid and asked.camvid.is_dir()):
        raise SystemExit(f"{asked.item} needs --camvid ROOT, CamVid's folder, not {asked.camvid}")
    if asked.item == "pack":
        pack(asked.camvid, asked.out)
        return
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; for a dry run: --device cpu --quick")
    if not asked.device.startswith("cuda") and not asked.quick:
        raise SystemExit(f"--device {asked.device} is for dry runs: add --quick")
    asked.out = asked.out.absolute()  # other processes work in other folders
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.deadline = time.monotonic() + asked.limit
    with ExitStack() as asked.at_end:
        item = ITEMS[asked.item](asked)
        file = kept_in(asked.item, asked)
        failures = go_through(item, file, asked)
    records, goals = item.report(read_kept(file))
    for goal in goals:
        print(f"{'met   ' if goal.met else 'MISSED'} {goal.goal}: {goal.value:.4g}")
    result = {"measured": records, "goals": [goal._asdict() for goal in goals],
              "found": read_kept(file), "left": failures}  # fmt: skip
    folder = asked.out if asked.quick else None
    print(write_result(f"gpu_{asked.item}", result, device=asked.device, folder=folder))
    for failure in failures:
        print(failure)
    if failures or not (asked.quick or all(goal.met for goal in goals)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
