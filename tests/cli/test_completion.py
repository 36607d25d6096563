"""What TAB offers, by the variables that bash and zsh set."""

import pytest


@pytest.fixture
def complete(command, monkeypatch):
    """Completes a line in a shell, as its words stand there; bash takes = for a word."""

    def complete(shell: str, line: str) -> list[str]:
        words = line.replace("=", " = ").rstrip(" ") if shell == "bash" else line
        # Set, so that what the command sets is undone after the test.
        monkeypatch.setenv("_PERPIXEL_COMPLETION_PREFIX", "")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
        monkeypatch.setenv("_PERPIXEL_COMPLETE", f"complete_{shell}")
        _, out, err = command()
        assert err == ""
        if shell == "zsh":
            return [part for part in out.split('"')[1:-1] if part.strip() and ")" not in part]
        return out.split()

    return complete


SETTING = "perpixel train camvid/semantic_fpn_r18 --set "


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("perpixel train scenes/s", ["scenes/semantic_fpn_r18"]),
        ("perpixel predict cam", ["camvid/fast"]),  # what has weights
        ("perpixel zoo fe", ["fetch"]),
        ("perpixel data check city", ["cityscapes"]),
        ("perpixel eval runs/a --dataset pascal_v", ["pascal_voc"]),
        ("perpixel eval runs/a --mode bl", ["blend"]),
        (f"{SETTING}train.final_phase.", ["fraction=", "crop_size="]),
        (f"{SETTING}model.backbone.dep", ["18", "34", "50", "101"]),
        (f"{SETTING}loss.avg_non", ["false", "true"]),
        (f"{SETTING}optimizer.l", ["lr=", "layer_decay="]),
        (f"{SETTING}nothing", []),
    ],
)
def test_names_and_settings_complete(complete, shell, line, offered):
    start = line.split()[-1]
    paths = {"18": "model.backbone.depth=", "false": "loss.avg_non_ignore="}
    prefix = paths.get(offered[0] if offered else "", start if "." in start else "")
    prefix = "optimizer." if start == "optimizer.l" else prefix
    assert complete(shell, line) == [prefix + word.removeprefix(prefix) for word in offered]


@pytest.mark.parametrize("start", ["", "b"])
def test_values_complete(complete, start):
    values = [v for v in ("auto", "float32", "tf32", "bfloat16", "float16") if v.startswith(start)]
    line = f"{SETTING}train.steps=10 --set train.precision={start}"
    assert sorted(complete("bash", line)) == sorted(values)
    assert sorted(complete("zsh", line)) == [f"train.precision={value}" for value in sorted(values)]
    assert complete("bash", "perpixel eval runs/a --mode=s") == ["slide"]
