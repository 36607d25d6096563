"""benchmarks/serving.py with smaller numbers: it fails on a 500, and on a server that dies."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/serving.py"


def test_nothing_malformed_breaks_the_server(model):
    command = [sys.executable, SCRIPT, model, "--size", "16x16", "--each", "2"]
    done = subprocess.run(
        [*command, "--concurrent", "20", "--malformed", "150"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    counts = re.search(r"150 malformed: {(.*)}", done.stdout)
    assert counts is not None
    seen = dict(re.findall(r"'(\w+)': (\d+)", counts[1]))
    assert sum(map(int, seen.values())) == 150
    assert {"400", "404", "405", "406", "413", "415", "422"} <= seen.keys()
