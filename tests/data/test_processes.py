"""How many processes there may be, and those of scripts without `if __name__ == "__main__":`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perpixel.data.processes import cores

CHECK = """
from perpixel.data.doctor import check
check("camvid", Path(sys.argv[1]), processes=2)
"""
BATCHES = """
import multiprocessing
import perpixel
from perpixel.data.catalog import open_pairs
from perpixel.data.loader import batches
multiprocessing.set_start_method("spawn", force=True)
pairs = open_pairs("camvid", Path(sys.argv[1]), "train")
next(batches(pairs, perpixel.recipe("camvid/fcn_r18-d8"), first_step=0, workers=1))
"""


@pytest.mark.parametrize("work", [CHECK, BATCHES], ids=["check", "batches"])
def test_a_script_that_every_process_would_run_is_told_so(mini, tmp_path, work):
    """Without a word they would die, and the script wait for ever."""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nfrom pathlib import Path\n{work}")
    done = subprocess.run(
        [sys.executable, script, mini],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "PerpixelError: a process that was to read pictures has died as it started" in last
    assert 'if __name__ == "__main__":' in last


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell of no such set")
def test_cores_are_those_that_may_be_used():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
