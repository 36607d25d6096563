"""Freed memory is kept, unless the user's own settings of glibc say otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy
from perpixel.heap import keep_freed

keep_freed()
def fill():
    numpy.ones(1 << 28, numpy.uint8)

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**settings: str) -> int:
    """Pages that the system hands out for 256 MB that have been had and freed before."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's")
def test_freed_memory_comes_back_without_the_system(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert faults() < 50
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") >= 128  # the user's word; pages of 2 MB at most
