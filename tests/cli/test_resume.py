"""Resuming with the same command, or from the run's folder alone."""

import shutil

import pytest

QUICK = [
    "--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "augment.crop_size=32x32",
    "--set", "train.precision=float32", "--set", "model.backbone.base_channels=8",
    "--device", "cpu",
]  # fmt: skip
MORE = ["--set", "train.steps=3", "--allow-config-change", "--device", "cpu"]


@pytest.fixture
def command(command):
    """Runs `perpixel train` with these words; returns its exit code and stderr."""
    return lambda *words: command("train", *words)[::2]


def test_the_run_folder_alone_is_resumed(command, mini, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.chdir(mini.parent)
    assert command("camvid/fcn_r18-d8", "--data", mini.name, "--out", run, *QUICK)[0] == 0
    monkeypatch.chdir(tmp_path)
    code, err = command("--resume", "--out", run, *MORE)
    assert code == 0, err
    assert "resumed after step 2" in err


def test_data_that_moved_are_asked_for_and_those_given_win(command, mini, tmp_path):
    run, old, new = tmp_path / "run", tmp_path / "old", tmp_path / "new"
    shutil.copytree(mini, old)
    assert command("camvid/fcn_r18-d8", "--data", old, "--out", run, *QUICK)[0] == 0
    old.rename(new)
    code, err = command("--resume", "--out", run, "--device", "cpu")
    assert code == 1
    assert f"the run's data set was in {old}, which does not exist now; name its folder with" in err
    assert command("--resume", "--out", run, "--device", "cpu", "--data", new)[0] == 0
    assert command("--resume", "--out", run, *MORE)[0] == 0
    (run / "environment.json").write_text("{}")  # as version 0.2 wrote it
    code, err = command("--resume", "--out", run, "--device", "cpu")
    assert code == 2
    assert "--data ROOT" in err


def test_the_same_command_with_init_resumes(command, mini, tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    words = ["camvid/fcn_r18-d8", "--data", mini, *QUICK]
    assert command(*words, "--out", source)[0] == 0
    words += ["--out", run, "--init", source]
    assert command(*words)[0] == 0
    shutil.rmtree(source)  # nothing of it is needed any more
    code, err = command(*words, "--resume")
    assert code == 0, err
    assert "with its own weights, resumed after step 2" in err
