"""The Hub's folder, and its protocol: huggingface_hub's own client against a loopback server.

The client reads its address when it is imported; so what talks to the server is a process.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

import perpixel
from perpixel.checkpoints import hub, zoo
from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.data.datasets.camvid import CLASSES
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.errors import PerpixelError, UsageError

RECIPE = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"),
    ["model.backbone.base_channels=8", "model.head.channels=16", "model.aux_head=null"],
)
COMMIT = "a" * 40


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run as far as the Hub cares: final and best weights, and the best weights' scores."""
    folder = tmp_path_factory.mktemp("runs") / "camvid"
    for step, name in ((600, "model"), (400, "best")):
        torch.manual_seed(step)
        weights = perpixel.build(RECIPE, num_classes=11).state_dict()
        checkpoint = Checkpoint(RECIPE, CLASSES.names, CLASSES.palette, weights, step=step)
        write_checkpoint(folder / "checkpoints" / f"{name}.safetensors", checkpoint)
    (folder / "evaluate.json").write_text('{"miou": 41.03, "pixel_accuracy": 85.8, "step": 400}')
    return folder


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The few addresses of the Hub that matter; yields its own, and what was committed."""
    files: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def answer(self, content: bytes, *, code: int = 200, **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            base = f"http://{self.headers['Host']}"
            reply: object = {}
            if self.headers["Authorization"] != "Bearer hf_secret":
                self.answer(b'{"error": "no such token"}', code=401)
                return
            if self.path == "/api/repos/create":
                reply = {"url": f"{base}/me/streets", "name": "me/streets"}
            elif self.path.endswith("/preupload/main"):
                paths = [file["path"] for file in json.loads(sent)["files"]]
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                reply = {"files": [{"path": path, **plain} for path in paths]}
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                commit = f"{base}/me/streets/commit/{COMMIT}"
                reply = {"success": True, "commitUrl": commit, "commitOid": COMMIT}
            self.answer(json.dumps(reply).encode())

        def do_GET(self) -> None:
            repository, _, name = self.path.partition("/resolve/main/")
            if repository == "/me/streets" and name in files:
                tag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
                self.answer(files[name], ETag=tag, X_Repo_Commit=COMMIT)
            else:
                self.answer(b"{}", code=404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", files
    listening.shutdown()
    listening.server_close()


def client(address: str, home: Path, code: str, *, token: str = "hf_secret") -> str:
    hub = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", f"import perpixel\n{code}"],
        env=os.environ | hub | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_goes_up_and_comes_down(run_folder, server, tmp_path):
    address, files = server
    code = f"print(perpixel.push_to_hub({str(run_folder)!r}, 'me/streets', license='mit'))"
    assert client(address, tmp_path / "up", code) == f"{address}/me/streets"
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    assert b'perpixel.load("me/streets")' in files["README.md"]
    code = (
        "for name in ('me/streets', 'me/streets@main'):\n"
        "    model = perpixel.load(name)\n"
        "    print(model.origin, model.step)"
    )
    lines = client(address, tmp_path / "down", code).splitlines()
    assert len(lines) == 2
    path, step = lines[0].split()
    assert (Path(path).name, step) == ("model.safetensors", "400")
    local = read_checkpoint(run_folder / "checkpoints/best.safetensors")
    downloaded = read_checkpoint(Path(path))
    assert downloaded.recipe == local.recipe
    assert all(torch.equal(downloaded.weights[name], local.weights[name]) for name in local.weights)
    files.clear()  # downloaded once
    assert client(address, tmp_path / "down", code).splitlines() == lines


def test_what_the_hub_refuses_is_an_error_in_a_line(run_folder, server, tmp_path):
    address, files = server
    tried = "try: {}\nexcept perpixel.PerpixelError as error: print(error)"
    push = tried.format(f"perpixel.push_to_hub({str(run_folder)!r}, 'me/streets')")
    message = client(address, tmp_path, push, token="hf_wrong")
    assert message.startswith("me/streets: not uploaded: ")
    assert "401" in message
    message = client(address, tmp_path, tried.format("perpixel.load('me/absent')"))
    assert message.startswith("me/absent: no such run folder, checkpoint file or recipe here.")
    assert "RepositoryNotFoundError" in message
    assert not files


def test_where_the_hub_is_not_reached_two_lines_say_so(tmp_path):
    """And not one of every attempt of the library's own, which take half a minute."""
    code = (
        "import contextlib, sys\n"
        "with contextlib.redirect_stderr(sys.stdout):\n"
        "    try: perpixel.load('runs/none')\n"
        "    except perpixel.PerpixelError as error: print(error)"
    )
    first, *others = client("http://127.0.0.1:9", tmp_path, code).splitlines()
    assert first == "runs/none: no such folder here; asking the Hugging Face Hub ..."
    assert len(others) == 1
    assert others[0].startswith("runs/none: no such run folder, checkpoint file or recipe here.")
    assert "Connect" in others[0]


def test_the_folder_is_a_model_with_a_card(run_folder, tmp_path):
    model = perpixel.load(run_folder)
    perpixel.save_pretrained(run_folder, tmp_path / "out", license="cc-by-4.0")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    image = SyntheticStreets("val", count=1, size=(48, 64)).image(0)
    expected = model.predict(image).mask
    assert len(set(expected.flat)) > 1  # or agreeing would mean nothing
    assert (perpixel.load(tmp_path / "out").predict(image).mask == expected).all()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["id2label"]["3"] == CLASSES.names[3]
    assert config["label2id"][CLASSES.names[3]] == 3
    card = huggingface_hub.ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "perpixel"
    assert card.data.license == "cc-by-4.0"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {"mean_iou": 41.03, "accuracy": 85.8}
    assert "On `camvid` val: mIoU 41.03, pixel accuracy 85.80." in card.text
    for part in (CLASSES.names[0], "## License", '"name": "camvid/fcn_r18-d8"'):
        assert part in card.text


def test_scores_are_of_the_weights_they_belong_to(run_folder, tmp_path):
    run = shutil.copytree(run_folder, tmp_path / "run")

    def card(name: str) -> str:
        perpixel.save_pretrained(run / "checkpoints" / name, tmp_path / "out")
        return (tmp_path / "out/README.md").read_text()

    assert "mIoU 41.03" in card("best.safetensors")
    assert "mIoU" not in card("model.safetensors")
    assert "states no license" in card("model.safetensors")
    # As versions up to 0.2 wrote it: the final weights' scores, and no step.
    (run / "evaluate.json").write_text('{"miou": 41.03, "pixel_accuracy": 85.8}')
    assert "mIoU" not in card("best.safetensors")
    assert "mIoU 41.03" in card("model.safetensors")


def test_corrupt_scores_are_named(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run/evaluate.json").write_text('{"step": 400}')
    with pytest.raises(PerpixelError, match=r"evaluate\.json: not an evaluation's scores"):
        perpixel.save_pretrained(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("owner/name", True),
        ("owner/name-v1.5", True),
        (
            "runs/camvid",
            False,
        ),  # a local folder: a misspelled path
        ("models/fcn.safetensors", False),
        ("../name", False),
        ("a/b/c", False),
        ("name", False),
        ("/owner/name", False),
    ],
)
def test_what_may_be_a_repository(name, asks, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.is_repository(name) is asks


def test_misspelt_recipes_and_files_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(hub, "download", None)
    with pytest.raises(UsageError, match="Did you mean mmseg/fcn_r50-d8_512x1024_40k_cityscapes"):
        zoo.find("mmseg/fcn_r50-d8_512x1024_40k_cityscape")
    with pytest.raises(UsageError, match="no such run folder"):
        zoo.find("models/fcn.safetensors")


def test_a_name_without_an_owner_is_refused(run_folder):
    with pytest.raises(UsageError, match="OWNER/NAME"):
        perpixel.push_to_hub(run_folder, "name")


def test_a_folder_of_the_owners_name_hinders_no_upload(monkeypatch, run_folder, tmp_path):
    (tmp_path / "owner").mkdir()
    monkeypatch.chdir(tmp_path)

    def refuse():
        raise ConnectionError("unreachable")

    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    with pytest.raises(PerpixelError, match="owner/name: not uploaded: ConnectionError: unreach"):
        perpixel.push_to_hub(run_folder, "owner/name")
