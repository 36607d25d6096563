"""The number of threads that read images."""

import os
import sys

import pytest

from perpixel.data.prefetch import cores


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such setting")
def test_cores_are_those_that_may_be_used():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
