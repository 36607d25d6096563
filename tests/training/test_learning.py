"""Training learns: in every precision, with every switch, on two ranks, resumed, by every loss.

Each run trains a ResNet-18 an eighth as wide on 48x64 crops of the built-in scenes for 60 steps. An
untrained model, or one that gives every pixel the same class, has at most 5 mIoU on them.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_ranks import torchrun
from test_run import losses, same, weights

import perpixel
from perpixel.errors import PerpixelError
from perpixel.models.build import build
from perpixel.recipes import overrides
from perpixel.recipes.schema import Recipe
from perpixel.training.step import StepStats, make_train_state, train_step

FLOOR = 15
"""mIoU that every run must reach; 22 to 33 are usual."""
BASE = perpixel.override(
    perpixel.recipe("scenes/semantic_fpn_r18"),
    [
        "model.backbone.base_channels=8",
        "train.steps=60",
        "augment.crop_size=48x64",
        "train.log_every=1",
        "train.save_every=20",
        "evaluate.every=null",
        "optimizer.name=adamw",
        "optimizer.lr=0.003",
        "model.head.channels=32",
        "model.head.fpn_channels=32",
    ],
)
PRECISIONS = ("float32", "bfloat16", "float16")
OVERFLOWING = ("train.precision=float16", "loss.cross_entropy=50", "train.max_nonfinite_steps=0")
"""Gradients too large for float16 with the first loss scale, so that it is halved a few times."""


def variant(*changes: str) -> Recipe:
    return perpixel.override(BASE, changes)


def train(recipe: Recipe, out: Path, **named: object) -> float:
    """The final weights' mIoU."""
    return perpixel.train(recipe, out=out, device="cpu", **named).scores.miou


def last_loss(run: Path) -> float:
    """The mean of the last ten steps."""
    return sum(losses(run)[-10:]) / 10


def loss_scales(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss_scale"] for row in rows if "loss_scale" in row]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, tuple[Path, float]]:
    """A run in each precision, and its mIoU."""
    folder = tmp_path_factory.mktemp("plain")
    runs = {}
    for precision in PRECISIONS:
        recipe = variant(f"train.precision={precision}")
        runs[precision] = folder / precision, train(recipe, folder / precision)
    return runs


@pytest.fixture(scope="module")
def overflowed(tmp_path_factory) -> Path:
    """A run in float16 that had to lower its loss scale."""
    folder = tmp_path_factory.mktemp("overflowed")
    train(variant(*OVERFLOWING), folder)
    return folder


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_in_every_precision(plain, precision: str):
    run, miou = plain[precision]
    assert miou > FLOOR
    assert last_loss(run) == pytest.approx(last_loss(plain["float32"][0]), rel=0.1)
    counts = [count for name, count in weights(run).items() if name.endswith("batches_tracked")]
    assert counts
    assert all(count == 60 for count in counts)  # batch norm's statistics are the run's


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_precision_reaches_the_arithmetic(plain, precision: str):
    """The losses are rounded otherwise than float32's, from the first step on."""
    half, full = (losses(plain[name][0]) for name in (precision, "float32"))
    assert half[0] == pytest.approx(full[0], rel=0.02)
    assert half[0] != full[0]
    norms = [
        json.loads((plain[name][0] / "metrics.jsonl").read_text().splitlines()[0])["gradient_norm"]
        for name in (precision, "float32")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)  # float16's without its loss scale


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("change", ["norms", "stages"])
def test_activation_checkpointing_changes_no_bit(plain, tmp_path, precision: str, change: str):
    recipe = variant(f"train.precision={precision}", f"train.activation_checkpointing={change}")
    assert train(recipe, tmp_path) > FLOOR
    assert losses(tmp_path) == losses(plain[precision][0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_moving_average_learns(plain, tmp_path, precision: str):
    miou = train(variant(f"train.precision={precision}", "train.ema_decay=0.9"), tmp_path)
    assert miou > FLOOR
    assert losses(tmp_path) == losses(plain[precision][0])
    assert not same(weights(tmp_path), weights(plain[precision][0]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_in_micro_batches(plain, tmp_path, precision: str):
    miou = train(variant(f"train.precision={precision}", "train.grad_accum_steps=2"), tmp_path)
    assert miou > FLOOR
    assert last_loss(tmp_path) == pytest.approx(last_loss(plain[precision][0]), rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_recipe_for_own_images_learns(tmp_path, precision: str):
    """From random weights, as there is no network here; 16 to 20 mIoU are usual."""
    recipe = perpixel.override(
        perpixel.recipe("folder/fast"),
        [
            f"train.precision={precision}",
            "data.name=scenes",
            "train.steps=60",
            "evaluate.fraction=null",
            "augment.base_size=null",
            "inference.base_size=null",
            "augment.crop_size=48x64",
            "optimizer.lr=0.003",
            "model.head.channels=32",
            "model.head.fpn_channels=32",
        ],
    )
    assert train(recipe, tmp_path, init="none") > 10


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])  # one takes a minute to compile
def test_it_learns_compiled(plain, tmp_path, precision: str):
    miou = train(variant(f"train.precision={precision}", "train.compile=default"), tmp_path)
    assert miou > FLOOR
    assert last_loss(tmp_path) == pytest.approx(last_loss(plain[precision][0]), rel=0.1)


SCRIPT = """
import sys
import torch
import perpixel
from perpixel.runtime.distributed import process_group
from perpixel.recipes import overrides

with process_group(torch.device("cpu")):
    for run in sys.argv[1:]:
        recipe = overrides.load(open(f"{run}.json").read(), origin="test")
        perpixel.train(recipe, out=run, device="cpu")
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """A folder of runs of two ranks: one a precision, and one that overflowed."""
    folder = tmp_path_factory.mktemp("two-ranks")
    recipes = {precision: variant(f"train.precision={precision}") for precision in PRECISIONS}
    recipes["overflowed"] = variant(*OVERFLOWING)
    for name, recipe in recipes.items():
        (folder / f"{name}.json").write_text(overrides.dump(recipe))
    (folder / "script.py").write_text(SCRIPT)
    torchrun(folder / "script.py", *(folder / name for name in recipes))
    return folder


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_ranks_learn(plain, two_ranks: Path, precision: str):
    scores = json.loads((two_ranks / precision / "evaluate.json").read_text())
    assert scores["miou"] > FLOOR
    assert last_loss(two_ranks / precision) == pytest.approx(
        last_loss(plain[precision][0]), rel=0.1
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_killed_run_resumes_bit_for_bit(plain, tmp_path, precision: str):
    straight = plain[precision][0]
    _train_and_kill(variant(f"train.precision={precision}"), tmp_path / "run", after="step 30 ")
    train(variant(f"train.precision={precision}"), tmp_path / "run", resume="must")
    assert losses(tmp_path / "run") == losses(straight)
    assert same(weights(tmp_path / "run"), weights(straight))


def check_overflows(run: Path) -> None:
    """Some steps left the weights and halved the scale, which the log tells; the run learned.

    With train.max_nonfinite_steps=0 a step that counts as not finite would have ended it.
    """
    scales = loss_scales(run)
    skipped = 60 - len(scales)
    assert skipped > 0
    assert scales[-1] == 65536 / 2**skipped
    assert scales == sorted(scales, reverse=True)
    log = (run / "log.txt").read_text()
    assert log.count("gradients overflowed with the loss scale") == skipped
    assert json.loads((run / "evaluate.json").read_text())["miou"] > FLOOR


def test_a_lowered_loss_scale_is_no_failed_step(overflowed: Path):
    check_overflows(overflowed)


def test_the_loss_scale_is_resumed(overflowed: Path, tmp_path):
    recipe = variant(*OVERFLOWING)
    _train_and_kill(recipe, tmp_path / "run", after="step 30 ")
    train(recipe, tmp_path / "run", resume="must")
    assert loss_scales(tmp_path / "run") == loss_scales(overflowed)
    assert same(weights(tmp_path / "run"), weights(overflowed))


def test_ranks_agree_on_the_loss_scale(overflowed: Path, two_ranks: Path):
    check_overflows(two_ranks / "overflowed")
    assert last_loss(two_ranks / "overflowed") == pytest.approx(last_loss(overflowed), rel=0.1)


def _train_and_kill(recipe: Recipe, out: Path, *, after: str) -> None:
    """Trains in another process, which is killed once it has said a line that begins so."""
    script = out.parent / "recipe.py"
    script.write_text(
        "from perpixel.recipes import overrides\n"
        f"r = overrides.load({overrides.dump(recipe)!r}, origin='test')\n"
    )
    words = [
        sys.executable,
        "-m",
        "perpixel",
        "train",
        f"{script}:r",
        "--out",
        out,
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(after):
            process.kill()
            break
    process.stderr.close()
    assert process.wait() == -9
    assert (out / "checkpoints" / "last.safetensors").exists()


LOSSES = {
    "focal": ["loss.cross_entropy=0", "loss.focal=1"],
    "Dice": ["loss.cross_entropy=0", "loss.dice=1"],
    "Lovasz": ["loss.cross_entropy=0", "loss.lovasz=1"],
    "OHEM": ['loss.ohem={"threshold": 0.7, "min_kept": 1000}'],
    "class weights": ["loss.class_weights=[1,1,2,1,1,3,1]"],
    "label smoothing": ["loss.label_smoothing=0.1"],
    "auxiliary head": ['model.aux_head={"num_convs": 1, "channels": 8}'],
}


@pytest.mark.parametrize("term", LOSSES)
def test_every_loss_term_teaches(tmp_path, term: str):
    assert train(variant("train.precision=float32", *LOSSES[term]), tmp_path) > FLOOR


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_programs_own_autocast_changes_nothing(plain, tmp_path, precision: str):
    """torch keeps cast weights until the outermost autocast ends, which here is the program's."""
    run, miou = plain[precision]
    with torch.autocast("cpu", torch.bfloat16):
        assert train(variant(f"train.precision={precision}"), tmp_path) == miou
        assert perpixel.evaluate(tmp_path).miou == miou
    assert losses(tmp_path) == losses(run)
    assert same(weights(tmp_path), weights(run))


def test_it_learns_with_another_default_dtype(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        assert train(variant("train.precision=float32"), tmp_path) > FLOOR
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(tensor.dtype != torch.float64 for tensor in weights(tmp_path).values())


def test_two_micro_batches_are_one_step_of_all_their_images():
    """Where batch norm is constant and nothing is dropped: one step of SGD, to rounding."""
    settings = [
        "train.precision=float32", "optimizer.name=sgd", "optimizer.lr=0.1", "schedule.min_lr=0",
        "model.backbone.frozen_bn=true", "model.head.norm=group", "model.head.dropout=0",
    ]  # fmt: skip
    images = torch.randint(0, 256, (4, 48, 64, 3), dtype=torch.uint8)
    labels = torch.randint(0, 7, (4, 48, 64), dtype=torch.uint8)
    labels[0, :40] = 255  # so that the first micro-batch counts for less
    after = []
    for count in (1, 2):
        recipe = variant(*settings, f"train.grad_accum_steps={count}")
        torch.manual_seed(0)
        model = build(recipe.model, num_classes=7)
        state = make_train_state(model, recipe, device=torch.device("cpu"), dtype=torch.float32)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        train_step(state, images, labels, recipe, step=0)
        after.append({name: model.state_dict()[name] - before[name] for name in before})
    for name, change in after[0].items():
        assert (after[1][name] - change).norm() <= 1e-4 * change.norm() + 1e-7, name
    assert after[0]["head.classifier.weight"].norm() > 0


def test_every_step_draws_another_dropout():
    """The same images and weights: only dropout moves the loss, and the step decides it."""
    still = variant("train.precision=float32", "optimizer.lr=1e-30", "schedule.min_lr=0")
    model = build(still.model, num_classes=7)
    state = make_train_state(model, still, device=torch.device("cpu"), dtype=torch.float32)
    images = torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8)
    labels = torch.randint(0, 7, (2, 48, 64), dtype=torch.uint8)
    first, second, again = (
        train_step(state, images, labels, still, step=step).loss for step in (0, 1, 0)
    )
    assert first == again
    assert first != second


def test_the_best_weights_are_those_of_the_best_score(tmp_path):
    train(variant("train.precision=float32", "evaluate.every=6", "optimizer.lr=0.01"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    mious = [row["miou"] for row in rows if "miou" in row]
    assert len(mious) == 10
    best = perpixel.evaluate(tmp_path / "checkpoints" / "best.safetensors")
    assert best.miou == max(mious)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("loss", "norm", "scale", "overflowed"),
    [(1, INF, 2, True), (1, INF, 1, False), (NAN, NAN, 65536, False), (1, 1, 65536, False)],
)
def test_what_only_the_loss_scale_made_infinite_is_an_overflow(loss, norm, scale, overflowed):
    stats = StepStats(loss, norm, interrupted=False, finish=False, corrupt=0, loss_scale=scale)
    assert stats.overflowed == overflowed
    assert stats.is_finite == (norm == 1)


def test_a_loss_that_is_not_finite_ends_a_float16_run(tmp_path):
    wild = variant("train.precision=float16", "optimizer.lr=1e30", "schedule.min_lr=0")
    with pytest.raises(PerpixelError, match=r"train\.precision=bfloat16 or float32"):
        train(wild, tmp_path)
