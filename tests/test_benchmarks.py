"""The benchmarks run, and docs/performance.md holds what they wrote. No timing is asserted."""

import importlib
import json
import math
import runpy
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

import perpixel
from perpixel.io.images import read_image, read_mask

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = (
    "backbones", "camvid", "data", "fault_injection", "forward", "gpu", "index", "loss",
    "metric", "networks", "release", "switches", "tables",
)  # fmt: skip
CASE = {
    "recipe": "camvid/fcn_r18-d8", "settings": ["data.name=camvid", "train.batch_size=2"],
    "classes": 11, "size": (64, 64), "batch": 2, "device": "cpu", "count": 2,
}  # fmt: skip


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_starts(modules, monkeypatch, capsys, script: str):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # or an import would set it for good
    file = str(BENCHMARKS / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(file, run_name="__main__")
    assert not left.value.code
    assert capsys.readouterr().out.startswith(f"usage: {script}.py")


@pytest.mark.parametrize("what", ["training_step", "forward", "prediction", "metric", "images"])
def test_our_side_of_every_case_runs(modules, mini, what: str):
    subject = modules("subjects.with_perpixel")
    run = getattr(subject, what)({**CASE, "root": str(mini)})
    run()
    run()


def test_a_worker_answers_orders(modules):
    peers = modules("peers")
    with peers.worker("perpixel", threads=1) as ask:
        ask("make", what="metric", case=CASE)
        assert ask("run") > 0
        assert ask("memory") > 50e6
        with pytest.raises(SystemExit, match="perpixel: Traceback"):
            ask("make", what="metric", case={})
        assert ask("run") > 0  # what was prepared is still there


def test_without_peers_it_is_said_how_to_get_them(modules, monkeypatch, tmp_path):
    peers = modules("peers")
    monkeypatch.setattr(peers, "PYTHON", tmp_path / "python")
    with pytest.raises(SystemExit, match=r"python benchmarks/peers\.py install"):
        peers.worker("mmseg").__enter__()


def test_peers_come_with_what_their_torch_needs(modules, monkeypatch):
    """torch's own needs at the list's versions, then the list without any more."""
    peers, commands = modules("peers"), []
    monkeypatch.setattr(peers.subprocess, "run", lambda command, **_: commands.append(command))
    peers.install()
    listed = str(BENCHMARKS.parent / "requirements" / "peers.txt")
    pip = [str(peers.PYTHON), "-m", "pip", "install"]
    assert commands[1:3] == [
        [*pip, "--constraint", listed, "torch"],
        [*pip, "--no-deps", "-r", listed],
    ]


def test_a_worker_measures_the_gpu_that_is_named(modules, monkeypatch):
    worker, chosen = modules("worker"), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    worker._choose("cpu")
    with pytest.raises(SystemExit, match=r"^cuda:1: torch .* has no GPU"):
        worker._choose("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "empty", lambda _, device: SimpleNamespace(device=f"as {device}"))
    worker._choose("cuda:1")
    assert chosen == ["as cuda:1"]


@pytest.fixture
def plain(monkeypatch):
    """The file that torchvision and smp share, run as with a CPU's torch or with CUDA's."""
    defined = []

    class Library:
        def __init__(self, *_: str) -> None: ...

        def define(self, schema: str) -> None:
            defined.append(schema.partition("(")[0])

    def run(cuda: str | None) -> tuple[dict, list[str]]:
        defined.clear()
        with monkeypatch.context() as changed:
            changed.setattr(torch.library, "Library", Library)
            changed.setattr(torch.version, "cuda", cuda)
            return runpy.run_path(str(BENCHMARKS / "subjects" / "plain.py")), list(defined)

    return run


def test_torchvision_defines_its_own_operators_on_cuda(plain):
    assert plain(None)[1] == ["nms", "qnms"]
    assert plain("13.0")[1] == []


def test_plain_toolkits_let_cudnn_choose_as_the_others_do(plain, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model, objective = torch.nn.Conv2d(3, 11, 1), torch.nn.functional.cross_entropy
    step = plain(None)[0]["training_step"](model, CASE, objective=objective)
    before = model.weight.detach().clone()
    step()
    assert not torch.equal(model.weight, before)
    assert torch.backends.cudnn.benchmark


def test_switches_are_timed_from_the_first_step_on_as_training_runs(modules, monkeypatch):
    switches, seen = modules("switches"), []

    def alternating(ways: dict, *, rounds: int, warm_up: int) -> dict[str, list[float]]:
        assert warm_up == 0
        seen.append(torch.backends.cudnn.benchmark)
        return {name: [9.0, *[1.0] * (rounds - 1)] for name in ways}

    monkeypatch.setattr(switches, "alternating", alternating)
    found = switches.steps([])
    assert (found["first"], found["step"]) == (9.0, 1.0)
    assert seen == [True]


def test_a_forward_pass_in_float32_is_exact(modules, monkeypatch):
    """torch's own default for convolutions on CUDA is TF32."""
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # or the import would set it for good
    forward, seen = modules("forward"), []
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(forward, "DEVICE", "cuda")
    monkeypatch.setattr(forward, "write_result", lambda *_, **__: "")
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    monkeypatch.setattr(sys, "argv", ["forward.py"])
    monkeypatch.setattr(forward, "measured", lambda *_, **__: [seen.append(cudnn.allow_tf32)])
    forward.main()
    assert seen == [False, False]


def test_without_camvid_it_is_said(modules, monkeypatch, tmp_path):
    data = modules("data")
    monkeypatch.setattr(sys, "argv", ["data.py", "--camvid", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"--camvid: .*nowhere: no such folder"):
        data.main()


def test_toolkits_take_turns(modules, monkeypatch):
    peers, order = modules("peers"), []

    @contextmanager
    def worker(subject: str, *, threads: int | None):
        def ask(do: str, **said: object) -> float:
            order.append((subject, *said.values()) if said else subject)
            return float(len(order))

        yield ask
        order.append(f"{subject} ends")

    monkeypatch.setattr(peers, "worker", worker)
    seconds = peers.take_turns("step", {"A": ("a", {"x": 1}), "B": ("b", {})}, rounds=2)
    assert order == [
        ("a", "step", {"x": 1}), "a", ("b", "step", {}), "b",
        "a", "b", "a", "b", "b ends", "a ends",
    ]  # fmt: skip
    assert seconds == {"A": [5.0, 7.0], "B": [6.0, 8.0]}


def test_images_are_as_large_as_the_originals(modules, mini, tmp_path):
    """And both sides' labels are the same."""
    made, registry = modules("images"), modules("perpixel.data.registry")
    root = made.cityscapes_like(mini, tmp_path / "city", count=2)
    opened = registry.open_dataset("cityscapes", root, "train")
    assert len(opened) == 2
    assert opened.image(1).shape == (1024, 2048, 3)
    train_ids = root / "gtFine/train/town/0001_gtFine_labelTrainIds.png"
    assert (opened.label(1) == read_mask(train_ids)).all()
    root = made.voc_like(mini, tmp_path / "voc", count=2)
    opened = registry.open_dataset("pascal_voc", root, "train")
    assert opened.image(1).shape == (375, 500, 3)
    assert opened.label(1).shape == (375, 500)


def test_the_page_holds_the_results_that_are_kept(modules):
    tables = modules("tables")
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    assert tables.results()
    assert tables.filled(page, tables.results()) == page, "python benchmarks/tables.py"


def test_the_page_of_backbones_holds_the_results_that_are_kept(modules):
    tables = modules("tables")
    page = (BENCHMARKS.parent / "docs" / "backbones.md").read_text()
    assert tables.backbones_page() == page, "python benchmarks/tables.py"
    kept = json.loads((BENCHMARKS / "results/backbones.json").read_text())["families"]
    names = {family: found["backbone"] for family, found in kept.items()}
    assert names == modules("backbones").FAMILIES, "python benchmarks/backbones.py"
    sizes = [found["sizes"] for found in kept.values()]
    assert all(len(results) == 3 for results in sizes)
    trained = [any("losses" in r for r in results.values()) for results in sizes]
    assert sum(trained) >= 40


@pytest.mark.parametrize(
    ("name", "size", "found"),
    [
        ("resnet10t", (61, 70), {"result": "works"}),
        ("test_vit", (64, 80), {"result": "works"}),
        ("test_vit", (64, 81), {"result": "padded", "multiple": 16}),
        ("efficientformer_l1", (64, 64), {"result": "own size only"}),
    ],
)
def test_a_backbone_is_tried_at_a_size(modules, name, size, found):
    backbones = modules("backbones")
    recipe, model = backbones.build(name)
    state = backbones.make_train_state(
        model, recipe, device=torch.device("cpu"), dtype=torch.float32
    )
    outcome = backbones.outcome(state, recipe, size)
    assert outcome | found == outcome
    if found["result"] == "own size only":
        assert "cannot take images of 64x64" in outcome["message"]
        return
    assert all(math.isfinite(loss) for loss in outcome["losses"])
    model.backbone.requires_grad_(False)  # a backbone that does not train is no success
    assert backbones.outcome(state, recipe, size)["result"] == "fails"
    model.backbone.requires_grad_(True)
    next(model.head.parameters()).data.fill_(math.nan)
    assert backbones.outcome(state, recipe, size)["result"] == "fails"


def test_the_page_of_camvid_holds_the_results_that_are_kept(modules):
    for path, text in modules("camvid").page().items():
        assert path.read_text() == text, "python benchmarks/camvid.py page"


def test_the_weights_that_are_kept_know_a_street(camvid):
    model = perpixel.load(BENCHMARKS / "results/camvid/fast.safetensors")
    image = min((camvid / "val").glob("*.png"))
    wanted = read_mask(camvid / "valannot" / image.name)
    found = model.predict(read_image(image)).mask
    assert (found == wanted)[wanted < len(model.class_names)].mean() > 0.85


def release_check(modules, monkeypatch, capsys, *words: object) -> tuple[int, str]:
    """The exit code of benchmarks/release.py, and its table."""
    release = modules("release")
    monkeypatch.setattr(sys, "argv", ["release.py", *map(str, words)])
    code = 0
    try:
        release.main()
    except SystemExit as left:
        code = left.code
    return code, capsys.readouterr().out


def test_a_release_check_passes_skips_and_fails(modules, monkeypatch, capsys, mini):
    pytest.importorskip("onnxscript", reason="the extra [export] is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(modules("release"), "CAMVID", mini / "absent")
    code, table = release_check(modules, monkeypatch, capsys, "--only", "export", "camvid", "eval")
    title, *rows = table.splitlines()
    assert title.split() == ["check", "value", "expected", "seconds"]
    assert code == 0
    assert [row.split()[0] for row in rows] == ["export", "camvid", "eval"]
    assert rows[0].endswith("  ok")
    assert all(row.endswith("  skipped: no CamVid here") for row in rows[1:])

    # The shipped weights know CamVid, and not the scenes that lie here in its place.
    code, table = release_check(modules, monkeypatch, capsys, "--only", "eval", "--camvid", mini)
    assert code == 1
    assert table.splitlines()[1].endswith("  FAILED")

    (mini / "empty").mkdir(exist_ok=True)
    code, table = release_check(
        modules, monkeypatch, capsys, "--only", "eval", "--camvid", mini / "empty"
    )
    assert code == 1
    assert "FAILED: perpixel eval: exit code" in table


def test_a_release_check_compares_two_ranks_with_one(modules, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    release = modules("release")
    monkeypatch.setattr(release, "RANKS_STEPS", (*release.RANKS_STEPS, "train.steps=2"))
    code, table = release_check(modules, monkeypatch, capsys, "--only", "ranks")
    assert (code, table.splitlines()[1].split()[-1]) == (0, "ok")
    one = {1: 2.0, 2: 1.0}
    assert release.compare_ranks(one, {1: 2.0, 2: 1.0005}, device="cpu").passed
    assert not release.compare_ranks(one, {1: 2.0, 2: 1.05}, device="cpu").passed
    assert not release.compare_ranks(one, {1: 2.0}, device="cpu").passed


def test_a_training_that_does_not_learn_is_off_the_recorded_curve(modules, tmp_path):
    release = modules("release")
    recorded = json.loads((BENCHMARKS / "results/release.json").read_text())
    assert all(row.passed for row in release.compare_curve(recorded, recorded))
    rows = [{"step": step, "loss": math.log(11)} for step in range(1, 201)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evaluate.json").write_text('{"miou": 3.0}')
    compared = list(release.compare_curve(release.curve(tmp_path), recorded))
    assert len(compared) == 5
    assert [row.passed for row in compared[1:]] == [False] * 4


def test_precisions_are_left_out_where_the_device_has_none(modules):
    unsuited = modules("release").unsuited
    assert unsuited("float32", "cpu") is None
    assert "CUDA" in unsuited("tf32", "cpu")
    assert "float64" in unsuited("float64", "cpu")


def test_changes_are_ranked_beside_the_plain_trainings(modules):
    scores = {"pixel_accuracy": 60, "mean_accuracy": 30}
    changes = {
        "plain": {"miou": 19, **scores},
        "plain, seed 1": {"miou": 21, **scores},
        "worse": {"miou": 17.5, **scores},
        "better": {"miou": 23, **scores},
    }
    table = modules("camvid").changes_table({"changes": changes})
    assert table.startswith("2 plain trainings: mIoU 19.0, 21.0, mean 20.0.")
    better, worse = table.splitlines()[-2:]
    assert better == "| better | 23.0 | +3.0 | 60.0 | 30.0 |"
    assert worse == "| worse | 17.5 | -2.5 | 60.0 | 30.0 |"


def test_a_result_names_its_command_without_this_machines_paths(modules, monkeypatch, tmp_path):
    measure = modules("measure")
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    said = ["/home/me/benchmarks/data.py", "--camvid", "/data/CamVid", "--only", "3x3 alone"]
    monkeypatch.setattr(sys, "argv", said)
    written = json.loads(measure.write_result("data", {"measured": []}).read_text())
    assert written["command"] == "benchmarks/data.py --camvid CamVid --only '3x3 alone'"


def test_a_gpu_is_named_where_it_is_what_was_measured(modules, monkeypatch, tmp_path):
    measure = modules("measure")
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    for device, name, gpu in (
        ("cpu", "data.json", None),
        ("cuda:1", "data-gpu-of-cuda:1.json", "GPU of cuda:1"),
    ):
        path = measure.write_result("data", {"measured": []}, device=device)
        assert path.name == name
        assert json.loads(path.read_text())["machine"]["gpu"] == gpu


def test_peak_memory_is_the_devices(modules, monkeypatch):
    measure, reset = modules("measure"), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    measure.reset_peak_memory("cpu")
    assert reset == []
    assert measure.peak_memory("cpu") > 50e6
    measure.reset_peak_memory("cuda:1")
    assert reset == ["cuda:1"]
    assert measure.peak_memory("cuda:1") == 7


def test_a_table_has_medians_and_ratios(modules):
    tables = modules("tables")
    machine = {"cpu": "A", "cores": 2, "gpu": None, "torch": "2"}
    values = {"mmsegmentation": [3, 1, 2], "perpixel": [0.5], "perpixel, float32": [0.8, 1.2]}
    result = {
        "machine": machine,
        "command": "benchmarks/x.py",
        "measured": [{"title": "step", "unit": "seconds", "values": values}],
    }
    text = tables.filled("a <!-- x -->old<!-- end of x --> b", {"x": result})
    assert "`python benchmarks/x.py` on A, 2 cores, torch 2:" in text
    assert "| step | mmsegmentation | 2,000 ms |  |" in text
    assert "|  | perpixel | 500 ms | 4.00 |" in text
    assert "|  | perpixel, float32 | 1,000 ms | 2.00 |" in text
    assert "old" not in text
    assert tables.filled(text, {"x": result}) == text
    with pytest.raises(SystemExit, match="one <!-- y --> and one"):
        tables.filled(text, {"y": result})


def test_the_table_of_runtimes_compares_with_onnx_in_float32(modules):
    deployment = modules("deployment")
    one, two = {"p50": 0.4, "p90": 0.5}, {"p50": 200.0, "p90": 250.0}
    rows = {
        deployment.BASELINE: {"miou": 73.65, "latency_ms": {"1": two, "2": two}},
        "ONNX Runtime, INT8": {
            "miou": 73.5,
            "latency_ms": {"1": two, "2": one},
            "file_mb": 4.704067,
        },
    }
    result = {"command": "benchmarks/d.py", "machine": {"cpu": "A", "cores": 2}, "runtimes": rows}
    lines = deployment.table({**result, "versions": {"torch": "2"}}).splitlines()
    assert lines[0] == "`python benchmarks/d.py` on A, 2 cores, torch 2:"
    assert lines[2] == "| | file | mIoU | 1 thread: p50, p90 | 2 threads: p50, p90 | times faster |"
    assert lines[4].startswith("| ONNX Runtime, float32 |  | 73.65 |")
    assert (
        lines[5] == "| ONNX Runtime, INT8 | 4.7 MB | 73.50 | 200, 250 ms | 0.4, 0.5 ms | 500.00 |"
    )


def test_the_page_of_runtimes_holds_the_result_that_is_kept(modules):
    deployment = modules("deployment")
    if not (BENCHMARKS / "results/deployment.json").exists():
        pytest.skip("python benchmarks/deployment.py --data CamVid has not been run yet")
    page = (BENCHMARKS.parent / "docs/deployment.md").read_text()
    assert deployment.page() == page, "python benchmarks/deployment.py"


def test_the_plot_has_a_bar_for_each_of_our_lines(modules):
    tables = modules("tables")
    values = {"mmsegmentation": [2.0], "perpixel": [0.5], "perpixel <cached>": [4.0], "smp": [1.0]}
    measured = [{"title": "step", "values": values}, {"title": "alone", "values": {"a": [1.0]}}]
    drawing = ElementTree.fromstring(
        tables.plot({"networks": {"measured": measured}, "networks-other": {"measured": measured}})
    )
    texts = [element.text for element in drawing if element.tag.endswith("text")]
    assert texts[1:] == ["step (perpixel)", "4.00", "step (perpixel <cached>)", "0.50"]
    bars = [float(e.get("width")) for e in drawing if e.tag.endswith("rect") and e.get("y")]
    assert bars == [180.0, 90.0]
    page = (BENCHMARKS.parent / "docs" / "performance.svg").read_text()
    assert page == tables.plot(tables.results()), "python benchmarks/tables.py"


def gpu_command(modules, monkeypatch, capsys, *words: object) -> tuple[str | int | None, str]:
    """The exit code of benchmarks/gpu.py in a dry run, and what it printed."""
    gpu = modules("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words), "--device", "cpu", "--quick"])
    code = None
    try:
        gpu.main()
    except SystemExit as left:
        code = left.code
    return code, capsys.readouterr().out


@pytest.fixture
def small_camvid(modules, mini, tmp_path):
    modules("gpu").pack(mini, tmp_path / "CamVid")
    return tmp_path / "CamVid"


@pytest.mark.parametrize(
    ("item", "only", "title"),
    [
        ("works", "kernels, bfloat16", "kernels, bfloat16: largest errors"),
        ("inference", "eager", "masks: tiny, 32x64"),
        ("camvid", "", "CamVid, val, scales and flip"),
        ("data", "375, crop 512x512: files, 0", "loader: VOC-like JPEG, 500x375, crop 512x512"),
    ],
)
def test_an_item_of_a_gpu_runs_dry_and_once(
    modules, monkeypatch, capsys, tmp_path, small_camvid, item, only, title
):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # or an import would set it for good
    words = [item, "--out", tmp_path, "--only", only, "--camvid", small_camvid]
    code, printed = gpu_command(modules, monkeypatch, capsys, *words)
    assert code is None, printed
    assert "[1/1]" in printed
    written = json.loads((tmp_path / f"gpu_{item}.json").read_text())
    assert title in [one["title"] for one in written["measured"]]
    assert all(goal["met"] for goal in written["goals"])
    code, printed = gpu_command(modules, monkeypatch, capsys, *words)
    assert (code, "[1/1]" in printed) == (None, False)
    assert json.loads((tmp_path / f"gpu_{item}.json").read_text()) == written


def test_an_item_of_a_gpu_goes_on_where_it_ended(modules, monkeypatch, capsys, tmp_path):
    gpu, errors = modules("gpu"), {"loss, 2 classes": 1e-7, "gradient, 2 classes": math.nan}

    def kernel_errors(name: str, _: object) -> dict[str, float]:
        if name == "float16":
            raise RuntimeError("no such kernel")
        return {**errors, "mask, 2 classes": 0.0}

    monkeypatch.setattr(gpu, "kernel_errors", kernel_errors)
    words = ["works", "--out", tmp_path, "--only", "kernels"]
    code, printed = gpu_command(modules, monkeypatch, capsys, *words, "--limit", "0")
    assert (code, "3 steps remain: run the same command again" in printed) == (1, True)
    code, printed = gpu_command(modules, monkeypatch, capsys, *words)
    assert (code, "[3/3] kernels, float16" in printed) == (1, True)
    assert "kernels, float16: RuntimeError: no such kernel" in printed
    assert "MISSED kernels, float32: gradient within 1e-05: nan" in printed
    assert "met    kernels, float32: loss within 1e-05: 1e-07" in printed
    code, printed = gpu_command(modules, monkeypatch, capsys, *words)
    assert (code, "[1/1] kernels, float16" in printed) == (1, True)


def test_steps_are_compared_with_mmsegmentations(modules, monkeypatch, tmp_path):
    gpu = modules("gpu")
    given = SimpleNamespace(device="cuda", quick=False, out=tmp_path, at_end=ExitStack())
    item, shape = gpu.speed(given), "FCN R-50-D8, ADE20K, 512x512, batch 4"
    monkeypatch.setattr(gpu, "operations", lambda _: 6e12)
    found = {
        "product": 1e14,
        f"{shape}: mmsegmentation": {"seconds": [0.2, 0.2], "bytes": 8e9},
        f"{shape}: perpixel": {"seconds": [0.1, 0.1], "bytes": 5e9},
    }
    assert found.keys() <= item.steps.keys()
    assert item.report(found)[1] == [
        (f"{shape}: 40 % of matrix products", pytest.approx(0.6), True),
        (f"{shape}: 1.5 times mmsegmentation's speed", pytest.approx(2), True),
        (f"{shape}: half of mmsegmentation's memory", pytest.approx(0.625), False),
    ]


def test_a_step_is_the_same_without_the_fused_loss(modules):
    subject = modules("subjects.with_perpixel")
    logits = torch.randn(2, 5, 3, 4, requires_grad=True)
    labels = torch.randint(0, 5, (2, 9, 13), dtype=torch.uint8)
    labels[:, :2] = 255
    for spec in (subject.Loss(), subject.Loss(avg_non_ignore=False)):
        ours = subject.segmentation_loss(logits, labels, spec)
        assert subject.unfused_loss(logits, labels, spec).item() == pytest.approx(ours.item())


def test_every_fault_can_be_put_into_the_package(modules):
    """Its text is where it says, once, and so are the tests that must notice it."""
    injection = modules("fault_injection")
    names = [fault.name for fault in injection.FAULTS]
    assert len(set(names)) == len(names)
    for fault in injection.FAULTS:
        injection.check(fault)
    moved = replace(injection.FAULTS[0], old="no such text")
    with pytest.raises(SystemExit, match=rf"{moved.name}: {moved.file} holds its text 0 times"):
        injection.check(moved)
    untested = replace(injection.FAULTS[0], tests=("tests/none.py",))
    with pytest.raises(SystemExit, match=rf"{moved.name}: tests/none.py: no such tests"):
        injection.check(untested)


@pytest.mark.skipif(not (BENCHMARKS.parent / ".git").exists(), reason="copies what git tracks")
def test_a_fault_is_noticed_or_survives(modules):
    """Among tests of whole files, one that writes only the first piece is noticed, and one that
    does not sync is not."""
    injection, tests = modules("fault_injection"), ("tests/io/test_atomic.py",)
    first, unsynced = (
        injection.Fault("files/x", "perpixel/io/atomic.py", old, new, tests)
        for old, new in (
            ("part.write_bytes(content)", "part.write_bytes(content[:1])"),
            ("os.fsync(file.fileno())", "pass"),
        )
    )  # fmt: skip
    assert injection.inject(first) == f"{tests[0]}::test_folders_are_made_and_nothing_else_is_left"
    assert injection.inject(unsynced) == injection.SURVIVED
    injection.check_baseline([first], jobs=1)
