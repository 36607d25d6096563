"""Freed memory is kept, unless the user's own settings of glibc say otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy
from perpixel.runtime.heap import keep_freed

keep_freed()
def fill():
    blocks = [numpy.ones(31 << 20, numpy.uint8) for _ in range(8)]

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
USERS = {
    "GLIBC_TUNABLES": "glibc.malloc.check=0",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's")


def faults(settings: dict[str, str]) -> int:
    """Pages that the system hands out for 248 MB that have been had and freed before."""
    plain = {name: value for name, value in os.environ.items() if name not in USERS}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=plain | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_freed_memory_comes_back_without_the_system():
    assert faults({}) < 50


@pytest.mark.parametrize("name", USERS)
def test_the_users_word_stands(name: str):
    assert faults({name: USERS[name]}) >= 100  # of 2 MB at the most
