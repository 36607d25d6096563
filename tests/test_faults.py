"""benchmarks/faults.py in small: runs that are killed and stopped, and corrupt files everywhere."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def faults(*arguments: str) -> str:
    command = [sys.executable, "benchmarks/faults.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_is_killed_again_and_again_ends_the_same():
    said = faults("kills", "--kills", "3", "--steps", "6", "--seed", "1")
    assert "ended bit-identical" in said


def test_one_of_two_ranks_is_told_to_stop():
    said = faults("stop", "--stops", "1", "--steps", "6")
    assert "both left with 75; resumed bit-identical" in said


def test_damaged_files_are_taken_or_refused():
    """Ten of every kind."""
    said = faults("mutations", "--mutations", "340", "--seed", "1")
    assert "no crash, hang or other error" in said
