"""Resuming with the same command, or from the run's folder alone."""

import json
import shutil
import sys

import pytest

import perpixel
from perpixel.cli import main
from perpixel.errors import UsageError

QUICK = [
    "--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "augment.crop_size=32x32",
    "--set", "train.precision=float32", "--set", "model.backbone.base_channels=8",
    "--device", "cpu",
]  # fmt: skip
MORE = ["--set", "train.steps=3", "--allow-config-change", "--device", "cpu"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `perpixel train` with these words; returns its exit code and stderr."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["perpixel", "train", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return run


def test_the_run_folder_alone_is_resumed(command, mini, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.chdir(mini.parent)
    assert command("camvid/fcn_r18-d8", "--data", mini.name, "--out", run, *QUICK)[0] == 0
    assert json.loads((run / "run.json").read_text()) == {"data": str(mini)}
    monkeypatch.chdir(tmp_path)
    code, err = command("--resume", "--out", run, *MORE)
    assert code == 0, err
    assert "resumed after step 2" in err
    again = perpixel.train(out=run, resume="must", device="cpu")  # the same from Python
    assert again.scores.images == 3
    with pytest.raises(UsageError, match="name a recipe"):
        perpixel.train(out=run)


def test_data_that_moved_are_asked_for_and_those_given_win(command, mini, tmp_path):
    run, old, new = tmp_path / "run", tmp_path / "old", tmp_path / "new"
    shutil.copytree(mini, old)
    assert command("camvid/fcn_r18-d8", "--data", old, "--out", run, *QUICK)[0] == 0
    old.rename(new)
    code, err = command("--resume", "--out", run, "--device", "cpu")
    assert code == 1
    assert f"run.json: the run's data set was in {old}, which does not exist now; name" in err
    assert "--data" in err
    assert command("--resume", "--out", run, "--device", "cpu", "--data", new)[0] == 0
    assert command("--resume", "--out", run, *MORE)[0] == 0
    (run / "run.json").write_text("{}")
    code, err = command("--resume", "--out", run, "--device", "cpu")
    assert code == 1
    assert "run.json: not what a run records" in err


@pytest.mark.parametrize("resume", [["--resume"], ["--resume", "auto"]])
def test_the_same_command_with_init_resumes(command, mini, tmp_path, resume):
    source, run = tmp_path / "source", tmp_path / "run"
    words = ["camvid/fcn_r18-d8", "--data", mini, *QUICK]
    assert command(*words, "--out", source)[0] == 0
    words += ["--out", run, "--init", source]
    assert command(*words)[0] == 0
    shutil.rmtree(source)  # nothing of it is needed any more
    code, err = command(*words, *resume)
    assert code == 0, err
    assert f"the initial weights {source} are ignored: the resumed run has its own" in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--lr", "0.1"], "no option --lr. Did you mean --set optimizer.lr=0.1?"),
        (["--batch-size=4"], "Did you mean --set train.batch_size=4?"),
        (["--epochs", "3"], "Did you mean train.steps (epochs x images / train.batch_size)?"),
        (["--work-dir", "runs/a"], "Did you mean the option --out?"),
        (["--load-from", "a.pth"], "Did you mean the option --init?"),
    ],
)
def test_a_setting_typed_as_an_option_is_named(command, tmp_path, words, hint):
    code, err = command("camvid/fcn_r18-d8", "--out", tmp_path / "run", *words)
    assert code == 2
    assert hint in err
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_still_unknown(command, tmp_path):
    code, err = command("camvid/fcn_r18-d8", "--out", tmp_path / "run", "--quux", "1")
    assert code == 2
    assert "--quux" in err
