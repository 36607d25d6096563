"""Reports of runs and evaluations: their content, what they say is missing, and escaping."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from PIL import Image

import perpixel
from perpixel.cli import main
from perpixel.errors import PerpixelError, UsageError
from perpixel.evaluation.files import write_scores
from perpixel.evaluation.metrics import confusion, scores
from perpixel.evaluation.visualization import errors, worst_and_best
from perpixel.recipes import overrides
from perpixel.recipes.schema import IGNORE_INDEX
from perpixel.reporting.reading import read_source
from perpixel.reporting.report import name_sources, render

LOADS = {"src", "href", "srcset", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """What a browser would see: elements, what they would load, and text by element's id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.loads, self.images, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in LOADS]
        self.images += [dict(attrs) for _ in [0] if tag == "img"]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def require_self_contained(html: str) -> Page:
    page = Page(html)
    assert all(address.startswith("data:") for address in page.loads)
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)
    assert page.tags.count("script") == 1
    for word in ("url(", "@import", "fetch(", "XMLHttpRequest", "import("):
        assert word not in html
    return page


def data_of(html: str) -> dict:
    match = re.search(r"const data = (.*);\n", html)
    assert match is not None
    return json.loads(match[1])


def image(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as file:
        return np.asarray(file.convert("RGB"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command line; returns its exit code and what it said."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["perpixel", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return run


@pytest.fixture(scope="module")
def run(mini, tmp_path_factory) -> Path:
    """A run of four steps, evaluated twice."""
    out = tmp_path_factory.mktemp("runs") / "mini"
    recipe = perpixel.override(
        perpixel.recipe("camvid/fcn_r18-d8"),
        ["train.steps=4", "train.batch_size=2", "augment.crop_size=32x32", "train.log_every=1",
         "evaluate.every=2", "model.head.channels=8"],
    )  # fmt: skip
    perpixel.train(recipe, data=mini, out=out, device="cpu")
    write_scores(out, perpixel.evaluate(out, data=mini))
    return out


def evaluation(folder: Path, names: tuple[str, ...], images: list[str]) -> Path:
    """A small evaluation's files, as `eval --out` writes them."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, len(names), (8, 8), np.uint8)
    counts = confusion(label, rng.integers(0, len(names), (8, 8), np.uint8), num_classes=len(names))
    areas = np.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])
    write_scores(folder, scores(counts, names=names, images=[(name, areas) for name in images]))
    return folder


def test_a_report_has_every_part_of_a_run(command, run, mini, tmp_path):
    file = tmp_path / "deep/report.html"
    code, output = command("report", run, "--data", mini, "--out", file, "--device", "cpu")
    assert (code, str(file) in output) == (0, True)
    html = file.read_text()
    page = require_self_contained(html)
    assert "://" not in html
    data = data_of(html)
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [[row["step"], row["loss"]] for row in recorded if "loss" in row]
    assert [point[:2] for point in data["charts"][0][0]] == losses
    assert [point[0] for point in data["charts"][1][0]] == [2, 4]
    assert page.tags.count("polyline") == 4
    scores = json.loads((run / "evaluate.json").read_text())
    assert f"{scores['miou']:.2f}" in page.text
    for name, iou in scores["iou"].items():
        assert name in page.text
        assert iou is None or f"{iou:.2f}" in page.text
    (matrix,) = data["matrices"]
    assert 100 * np.trace(matrix["rows"]) / np.sum(matrix["rows"]) == pytest.approx(
        scores["pixel_accuracy"]
    )
    assert '"camvid/fcn_r18-d8"' in page.text
    assert json.loads((run / "environment.json").read_text())["torch"] in page.text
    assert "Not in this report" not in page.text


def test_images_are_those_of_the_data_set_and_the_model(command, run, mini, tmp_path):
    file = tmp_path / "report.html"
    words = ("report", run, "--data", mini, "--out", file, "--device", "cpu", "--images", 1)
    assert command(*words)[0] == 0
    page = require_self_contained(file.read_text())
    rows = (run / "images.csv").read_text().splitlines()[1:]
    mious = sorted((float(row.split(",")[1]), row.split(",")[0]) for row in rows)
    assert [mious[0][1], mious[-1][1]] == re.findall(r"val/\d\d\.png", page.text)
    assert [image["alt"] for image in page.images] == [
        "Image", "Truth on the image", "Truth",
        "Prediction on the image", "Prediction", "Errors",
    ] * 2  # fmt: skip
    predictor = perpixel.load(run)
    result = predictor.predict(mini / mious[0][1])
    table = np.array([*result.palette, *[(0, 0, 0)] * (255 - len(result.palette)), (255,) * 3])
    assert (image(page.images[4]["src"]) == table[result.mask]).all()


def test_classes_are_sorted_by_iou(tmp_path):
    counts = np.array([[6, 4, 0], [0, 10, 0], [0, 1, 0]])
    write_scores(tmp_path, scores(counts, names=("sky", "tree", "road")))
    html = render(name_sources([read_source(tmp_path)]), [], [])
    names = re.findall(r'<td class="name">(\w+)</td>', html)
    assert names == ["tree", "sky", "road"]


def test_a_long_loss_curve_is_smoothed_over_the_raw_one(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in range(1, 31)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = render(name_sources([read_source(tmp_path)]), [], [])
    assert html.count('class="smoothed"') == 1
    assert html.count("<polyline") == 3


def test_errors_are_red_and_unlabeled_pixels_dark():
    image = np.full((1, 3, 3), 100, np.uint8)
    label, prediction = np.array([[1, 1, IGNORE_INDEX]], np.uint8), np.array([[1, 0, 0]], np.uint8)
    right, wrong, unknown = errors(image, label, prediction)[0].tolist()
    assert right == [170, 170, 170]
    assert wrong[0] > 200
    assert max(wrong[1:]) < 60
    assert max(unknown) < 60


def test_worst_and_best_share_no_image():
    mious = {"a": 3.0, "b": 1.0, "c": None, "d": 2.0}
    assert worst_and_best(mious, 6) == (["b", "d"], ["a"])
    assert worst_and_best(mious, 1) == (["b"], ["a"])
    assert worst_and_best({"a": None}, 6) == ([], [])


def test_two_are_compared(command, run, mini, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    recipe = overrides.load((run / "recipe.json").read_text(), origin="")
    changed = perpixel.override(recipe, ["optimizer.lr=0.5"])
    (other / "recipe.json").write_text(overrides.dump(changed))
    scores = json.loads((other / "evaluate.json").read_text())
    scores["iou"]["road"] = scores["iou"]["road"] + 1.25
    (other / "evaluate.json").write_text(json.dumps(scores))
    file = tmp_path / "both.html"
    words = ("report", run, other, "--data", mini, "--out", file, "--device", "cpu")
    assert command(*words)[0] == 0
    page = require_self_contained(file.read_text())
    assert "+1.25" in page.text
    assert f"optimizer.lr: {recipe.optimizer.lr} -> 0.5" in page.text
    data = data_of(file.read_text())
    assert data["names"] == ["mini", "other"]
    assert all(len(lines) == 2 and lines[0] == lines[1] for lines in data["charts"])
    assert len(data["matrices"]) == 2
    assert {"Prediction of mini", "Prediction of other"} <= {image["alt"] for image in page.images}


@pytest.mark.parametrize(
    "name",
    [
        "</script><script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}",
        "a'b&c",
    ],
)
def test_names_cannot_break_out(tmp_path, name):
    folder = evaluation(tmp_path / "<b>eval", (name, "road"), [f"val/{name}.png"])
    html = render(name_sources([read_source(folder)]), [], [f"a note on {name}"])
    page = require_self_contained(html)
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert name in page.text
    assert data_of(html)["matrices"][0]["names"] == [name, "road"]
    assert data_of(html)["names"] == ["<b>eval"]


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ("metrics.jsonl", "perpixel train RECIPE"),
        ("recipe.json", "recipe (recipe.json)"),
        ("environment.json", "environment (environment.json)"),
        ("evaluate.json", "perpixel eval MODEL --data ROOT --out"),
        ("confusion.csv", "class frequencies and confusion matrix"),
        ("images.csv", "worst and best images"),
    ],
)
def test_a_missing_file_is_listed_with_its_command(command, run, tmp_path, absent, expected):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / absent).unlink()
    assert command("report", folder, "--device", "cpu")[0] == 0
    page = require_self_contained((folder / "report.html").read_text())
    assert expected in page.text
    if absent != "images.csv":
        assert "name the folder of camvid with --data ROOT" in page.text


def test_an_evaluation_alone_is_a_report_and_takes_a_model(command, run, mini, tmp_path):
    folder = tmp_path / "eval"
    words = ("eval", run, "--data", mini, "--out", folder, "--device", "cpu")
    assert command(*words)[0] == 0
    file = folder / "report.html"
    assert command("report", folder, "--data", mini, "--device", "cpu")[0] == 0
    assert "name it with --model MODEL" in file.read_text()
    assert "perpixel train" not in file.read_text()  # it is no run
    words = ("report", folder, "--data", mini, "--model", run, "--device", "cpu")
    assert command(*words)[0] == 0
    assert len(Page(file.read_text()).images) == 3 * 6
    code, output = command("report", run, "--data", mini, "--model", run)
    assert (code, "weights of its own" in output) == (2, True)
    assert command("eval", run, "--data", mini, "--json", tmp_path / "s.json")[0] == 0
    assert command("report", tmp_path / "s.json")[0] == 0
    assert "confusion.csv" in (tmp_path / "report.html").read_text()


def test_images_of_another_split_are_an_error(command, run, mini, tmp_path):
    words = ("report", run, "--data", mini, "--split", "train", "--out", tmp_path / "r.html")
    code, output = command(*words, "--device", "cpu")
    assert code == 1
    assert "--split" in output
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evaluate.json", "[]"),
        ("evaluate.json", '{"miou": "<b>", "pixel_accuracy": 1, "iou": {}}'),
        ("evaluate.json", '{"miou": 1'),
        ("confusion.csv", "label,a,b\na,1,2\n"),
        ("confusion.csv", "label,a,b\na,1,x\nb,1,1\n"),
        ("confusion.csv", ""),
        ("images.csv", "image\na.png\n"),
        ("images.csv", "image,miou\na.png,high\n"),
        ("metrics.jsonl", "[1]\n"),
        ("recipe.json", "{}"),
        ("environment.json", "7"),
        ("evaluate.json", b"\xff\xfe"),
    ],
)
def test_a_corrupt_file_is_named(run, tmp_path, file, content):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PerpixelError, match=file):
        read_source(folder)


def test_a_truncated_last_line_is_left_out(run, tmp_path):
    text = (run / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "lo')
    assert [row["step"] for row in read_source(tmp_path).rows] == [
        json.loads(line)["step"] for line in text.splitlines()
    ]


def test_a_folder_without_a_run_is_refused(tmp_path, command):
    with pytest.raises(UsageError, match="neither a run folder"):
        read_source(tmp_path)
    code, output = command("report", tmp_path / "absent")
    assert (code, "absent" in output) == (2, True)


def test_folders_of_one_name_are_named_by_their_paths(run, tmp_path):
    for place in ("a/same", "b/same"):
        shutil.copytree(run, tmp_path / place)
    paths = [tmp_path / place for place in ("a/same", "b/same", "b/same")]
    sources = name_sources([read_source(path) for path in paths])
    assert {name: source.path for name, source in sources.items()} == {
        str(path): path for path in paths
    }


def test_a_missing_extra_is_named(command, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "perpixel.reporting.report")
    code, output = command("report", run)
    assert (code, "perpixel[report]" in output) == (1, True)


def test_a_browser_shows_it_without_requests(run, mini, tmp_path):
    file = tmp_path / "report.html"
    words = ["report", run, "--data", mini, "--out", file, "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "perpixel", *map(str, words)], check=True)
    with chromium(tmp_path / "browser", height=1600) as page:
        page.open(file.as_uri())
        assert page.messages() == []
        assert page.run("return performance.getEntriesByType('resource').length") == 0
        shown = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert page.run(shown)
        middle = (
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "scrollTo(0, scrollY + box.y - 200);"
            "return [box.x + box.width * arguments[1], 200 + box.height * arguments[1]]"
        )
        page.move(*map(int, page.run(middle, "svg.chart", 0.5)))
        assert re.search(r"mini: [\d.]+ at step \d", page.text("#tip"))
        page.move(*map(int, page.run(middle, "canvas.matrix", 0.99)))
        tip = page.text("#tip")
        matrix = data_of(file.read_text())["matrices"][0]
        last, total = matrix["rows"][-1][-1], sum(matrix["rows"][-1])
        assert tip.startswith(f"{matrix['names'][-1]} predicted as {matrix['names'][-1]}: ")
        assert tip.endswith(f"{last:,} of {total:,}")
        page.run("document.querySelector('canvas.matrix').focus()")
        page.press("\ue015")  # down, from the last row to the first
        assert page.text(".readout").startswith(f"{matrix['names'][0]} predicted as")
        page.click(".views img")
        assert page.text("dialog").endswith(": Image")
        page.press("\ue014")  # right
        assert page.text("dialog").endswith(": Truth on the image")
        page.click("dialog")
        assert not page.run("return document.querySelector('dialog').open")
        page.screenshot(tmp_path / "report.png")
        assert page.messages() == []
