"""The notebooks' cells run in their order, with few steps, and they are committed as they ran."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["own-data", "quick-start"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run_in_their_order(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = ["".join(cell["source"]) for cell in code_cells(path)]
    small = ", ".join(
        f'"{setting}"'
        for setting in (
            "train.steps=2",
            "model.backbone.base_channels=8",
            "model.head.fpn_channels=32",
            "model.head.channels=32",
        )
    )
    short = [re.sub(r'"train\.steps=\d+"', small, source) for source in code]
    assert short != code
    variables: dict = {"__name__": "__main__"}
    for number, source in enumerate(short, 1):
        exec(compile(source, f"{path.stem}, cell {number}", "exec"), variables)
    assert variables["run"].scores.images > 0
    assert (variables["run"].folder / "checkpoints/model.safetensors").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_ran(path: Path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 2
    assert path.stat().st_size <= 300_000
