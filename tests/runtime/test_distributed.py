import os

import pytest

from perpixel.errors import UsageError
from perpixel.runtime.device import resolve_device
from perpixel.runtime.distributed import all_gather_text


def test_one_gpu_is_not_every_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="'cuda:0' would be every rank's"):
        resolve_device("cuda:0")


def test_text_of_any_bytes_is_gathered():
    name = os.fsdecode(b"caf\xe9.png")
    assert all_gather_text(name) == [name]
