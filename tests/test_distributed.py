import os

import pytest
import torch

from perpixel import distributed
from perpixel.errors import UsageError


@pytest.fixture(autouse=True)
def _torchs_own():
    usual = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = usual


@pytest.mark.parametrize("name", ["float32", "bfloat16", "auto"])
def test_float32_is_float32_unless_tf32_is_asked_for(name: str):
    cpu = torch.device("cpu")
    assert distributed.precision("tf32", cpu) == torch.float32
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    distributed.precision(name, cpu)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("processor", "wide", "tiles", "wanted"),
    [
        ("AMD EPYC 9B14", True, False, torch.bfloat16),
        ("Intel(R) Xeon(R) Processor", True, True, torch.bfloat16),
        ("Intel(R) Xeon(R) Processor", True, False, torch.float32),  # no faster than float32
        ("AMD EPYC 7B13", False, False, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_a_cpu_multiplies_it_faster(
    monkeypatch, processor, wide, tiles, wanted
):
    monkeypatch.setattr(distributed, "_processor", lambda: processor)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: wide)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert distributed.precision("auto", torch.device("cpu")) == wanted


@pytest.mark.parametrize(
    ("name", "supported", "said"),
    [
        ("bfloat16", False, "bfloat16"),
        ("bfloat16", True, ""),
        ("tf32", True, "tf32"),
        ("auto", False, ""),
    ],
)
def test_what_a_cpu_is_ill_suited_to_is_said(monkeypatch, caplog, name, supported, said):
    monkeypatch.setattr(distributed, "_has_bfloat16", lambda: supported)
    distributed.precision(name, torch.device("cpu"))
    assert bool(caplog.records) == bool(said)
    assert said in caplog.text


def test_inside_exact_float32_is_float32():
    distributed.precision("tf32", torch.device("cpu"))
    with distributed.exact():
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


def test_one_gpu_is_not_every_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="'cuda:0' would be every rank's"):
        distributed.device("cuda:0")


def test_text_of_any_bytes_is_gathered():
    name = os.fsdecode(b"caf\xe9.png")
    assert distributed.gathered(name) == [name]
