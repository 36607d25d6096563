"""What a GPU computes, held against the CPU. Skipped without a GPU: other files test the CPU.

PERPIXEL_TEST_DEVICE=cpu runs these tests with the CPU in a GPU's place, to test the tests.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

import perpixel
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.models.build import build
from perpixel.ops.fused_cross_entropy import pixel_cross_entropy
from perpixel.profiling.latency import inference_pass, latency, write_trace
from perpixel.profiling.memory import Request, peak_memory
from perpixel.recipes.schema import IGNORE_INDEX, Recipe
from perpixel.runtime.dtype import resolve_dtype

WHERE = torch.device(os.environ.get("PERPIXEL_TEST_DEVICE", "cuda"))
GPU = WHERE.type == "cuda"
if GPU and not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

SHORT = [
    "train.steps=4", "train.batch_size=4", "augment.crop_size=48x64", "train.final_phase=null",
    "train.ema_decay=0.9", "train.log_every=1", "train.save_every=2", "evaluate.every=null",
    "train.precision=float32", "model.head.dropout=0",
]  # fmt: skip
FCN = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    [*SHORT, "model.head.channels=8", "model.aux_head.channels=8", "model.aux_head.dropout=0"],
)
FPN = perpixel.override(perpixel.recipe("camvid/semantic_fpn_r18"), SHORT)
BOTH = pytest.mark.parametrize("recipe", [FCN, FPN], ids=["fcn", "fpn"])


def train(recipe: Recipe, mini: Path, out: Path, *changes: str, device: str = str(WHERE), **how):
    """The rows of metrics of a run's steps."""
    recipe = perpixel.override(recipe, changes)
    perpixel.train(recipe, data=mini, out=out, device=device, **how)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return perpixel.load(run, device="cpu").model.state_dict()


@pytest.fixture(scope="module")
def on_the_cpu(mini, tmp_path_factory):
    """The steps of the runs on the CPU, by recipe."""
    return {
        recipe.name: train(recipe, mini, tmp_path_factory.mktemp("cpu"), device="cpu")
        for recipe in (FCN, FPN)
    }


@BOTH
def test_a_run_is_the_cpus(recipe, mini, tmp_path, on_the_cpu):
    found = train(recipe, mini, tmp_path, workers=2)
    first, wanted = found[0], on_the_cpu[recipe.name]
    assert first["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-4)
    assert first["gradient_norm"] == pytest.approx(wanted[0]["gradient_norm"], rel=1e-2)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
        assert 0 <= ours["data_share"] <= 1
        assert ours["images_per_second"] > 0


@BOTH
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("train.precision=tf32", 1e-2),
        ("train.precision=bfloat16", 3e-2),
        ("train.precision=float16", 3e-2),
        ("train.activation_checkpointing=stages", 1e-4),
        ("train.activation_checkpointing=norms", 1e-4),
        ("train.grad_accum_steps=2", 0.2),  # batch norm sees half as many images
        ("optimizer.name=adamw", 1e-4),
    ],
)
def test_switches_change_the_loss_as_they_may(recipe, change, error, mini, tmp_path, on_the_cpu):
    found = train(recipe, mini, tmp_path, change, "train.steps=2")
    wanted = on_the_cpu[recipe.name][0]["loss"]
    assert found[0]["loss"] == pytest.approx(wanted, rel=error)
    assert all(np.isfinite(row["loss"]) for row in found)


@pytest.mark.skipif(not GPU, reason="tests/acceleration/test_compile.py compiles for the CPU")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@BOTH
def test_a_compiled_run_is_the_same(recipe, mode, mini, tmp_path, on_the_cpu):
    found = train(recipe, mini, tmp_path, f"train.compile={mode}")
    for ours, theirs in zip(found, on_the_cpu[recipe.name], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)


@BOTH
def test_a_deterministic_run_goes_on_bit_for_bit(recipe, mini, tmp_path):
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    train(recipe, mini, whole, deterministic=True)
    shutil.copytree(whole, begun)
    states = sorted((begun / "checkpoints").glob("last*"))
    for later in [states[-1], *(begun / "checkpoints").glob("model*")]:
        later.unlink()
    train(recipe, mini, begun, resume="must", deterministic=True)
    lines = (begun / "log.txt").read_text()
    assert "after step 2" in lines or "step 3" in lines.split("random initial weights")[-1]
    ours, theirs = weights(begun), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["inference.flip=true", "inference.scales=[0.75,1.5]"],
        ["inference.mode=slide", "inference.window_size=48x48", "inference.stride=32x32"],
        ["inference.mode=blend", "inference.window_size=48x48", "inference.stride=32x32"],
        ["inference.pad_to=100x140"],
    ],
    ids=["whole", "scales", "slide", "blend", "padded"],
)
@BOTH
def test_class_maps_are_the_cpus(recipe, changes, mini, tmp_path):
    train(recipe, mini, tmp_path, "train.steps=2", device="cpu")
    images = SyntheticStreets("val", count=2, size=(90, 130))
    for index in range(2):
        image = images.image(index)
        here, cpu = (
            perpixel.load(tmp_path, device=where, settings=changes).predict(image)
            for where in (str(WHERE), "cpu")
        )
        assert (here.mask != cpu.mask).mean() < 1e-3


def test_a_run_is_scored_alike(mini, tmp_path):
    train(FCN, mini, tmp_path, "train.steps=2")
    here, cpu = (
        perpixel.evaluate(perpixel.load(tmp_path, device=where), data=mini)
        for where in (str(WHERE), "cpu")
    )
    assert here.confusion.sum() == cpu.confusion.sum()
    assert np.abs(here.confusion - cpu.confusion).sum() < 1e-3 * cpu.confusion.sum()
    assert here.miou == pytest.approx(cpu.miou, abs=0.1)


@pytest.mark.parametrize(
    ("images", "classes", "low", "high"),
    [
        (2, 19, (33, 65), (257, 513)),
        pytest.param(4, 150, (64, 64), (512, 512), marks=pytest.mark.skipif(not GPU, reason="")),
        pytest.param(2, 19, (128, 256), (1024, 2048), marks=pytest.mark.skipif(not GPU, reason="")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_fused_loss_at_true_sizes(images, classes, low, high, dtype):
    logits = 3 * torch.randn(images, classes, *low, device=WHERE)
    logits = logits.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    labels = torch.randint(0, classes, (images, *high), dtype=torch.uint8, device=WHERE)
    labels[torch.rand(labels.shape, device=WHERE) < 0.2] = IGNORE_INDEX
    pull = torch.rand(labels.shape, device=WHERE)
    exact = logits.detach().double().requires_grad_()
    full = interpolate(exact, size=high, mode="bilinear", align_corners=False)
    wanted = cross_entropy(full, labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
    (wanted * pull).sum().backward()
    found = pixel_cross_entropy(logits, labels, align_corners=False)
    (found * pull).sum().backward()
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    error = (logits.grad.double() - exact.grad).abs().max() / exact.grad.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 5e-3)
    again = logits.detach().clone().requires_grad_()
    (pixel_cross_entropy(again, labels, align_corners=False) * pull).sum().backward()
    assert torch.equal(again.grad, logits.grad)  # no atomic additions


def test_float32_is_float32():
    """TF32 has 10 bits of fraction: products would be wrong by 1e-3."""
    resolve_dtype("float32", WHERE)
    values = torch.randn(256, 64, 1, 1, device=WHERE)
    image = torch.randn(1, 64, 32, 32, device=WHERE)
    found = torch.nn.functional.conv2d(image, values)
    wanted = torch.nn.functional.conv2d(image.double(), values.double())
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("training", [False, True])
def test_memory_is_measured(training):
    request = Request(
        recipe=FCN, num_classes=11, size=(96, 128), batch=2, device=str(WHERE),
        dtype="bfloat16", training=training,
    )  # fmt: skip
    measured = peak_memory(request)
    assert measured.bytes is not None, measured.note
    assert 1e6 < measured.bytes < 4e9


def test_passes_are_timed_and_traced(tmp_path):
    model = build(FCN.model, num_classes=11).to(WHERE).eval()
    run = inference_pass(model, torch.ones(1, 3, 64, 64, device=WHERE), dtype=torch.float32)
    found = latency(run, WHERE, seconds=0.05)
    assert 0 < found.best < 1e4
    assert 0 < found.p50 <= found.p90
    write_trace(run, WHERE, tmp_path / "trace.json")
    kinds = {e.get("cat") for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert not GPU or "kernel" in kinds


@pytest.mark.skipif(not GPU, reason="a share of the memory is a GPU's")
def test_too_little_memory_is_told(mini, tmp_path):
    script = (
        "import sys, torch, perpixel\n"
        "torch.cuda.set_per_process_memory_fraction(0.002)\n"
        "from test_gpu import FCN\n"
        "perpixel.train(FCN, data=sys.argv[1], out=sys.argv[2], device='cuda')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(mini), str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert "too little memory; train.grad_accum_steps=2" in done.stderr


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_model_on_a_gpu_is_exported(suffix, mini, tmp_path):
    pytest.importorskip("onnxruntime")
    train(FCN, mini, tmp_path / "run", "train.steps=1", device="cpu")
    done = subprocess.run(
        [
            sys.executable, "-m", "perpixel", "export", str(tmp_path / "run"),
            str(tmp_path / f"model{suffix}"), "--size", "48x64", "--seconds", "0.1",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"model{suffix}").stat().st_size > 1e6
