import pytest
import torch

from perpixel.runtime import dtype
from perpixel.runtime.dtype import cudnn_mode, no_tf32, resolve_dtype


@pytest.fixture(autouse=True)
def _torchs_own():
    usual = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = usual


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_float32_is_float32_unless_tf32_is_asked_for(name: str):
    gpu = torch.device("cuda")
    assert resolve_dtype("tf32", gpu) == torch.float32
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    resolve_dtype(name, gpu)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_on_a_cpu_tf32_stays_as_the_program_has_it():
    cpu = torch.device("cpu")
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = False, True
    for name in ("tf32", "float32"):
        resolve_dtype(name, cpu)
        with no_tf32(cpu):
            pass
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("precision", ["none", "ieee", "tf32"])
def test_torchs_newer_interface_hinders_nothing(precision: str):
    """After it, reading the older one may raise RuntimeError."""
    usual = torch.backends.fp32_precision
    torch.backends.fp32_precision = precision
    try:
        for name, wanted in (("float32", "ieee"), ("tf32", "tf32")):
            resolve_dtype(name, torch.device("cuda"))
            assert torch.backends.cudnn.conv.fp32_precision == wanted
            assert torch.backends.cuda.matmul.fp32_precision == wanted
            assert torch.backends.cudnn.allow_tf32 == (name == "tf32")
    finally:
        torch.backends.fp32_precision = usual


@pytest.mark.parametrize("warn_only", [True, False])
def test_a_programs_own_determinism_is_kept(warn_only: bool):
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    fill = torch.utils.deterministic.fill_uninitialized_memory
    try:
        with cudnn_mode(deterministic=True):
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
        assert torch.utils.deterministic.fill_uninitialized_memory == fill
    finally:
        torch.use_deterministic_algorithms(False)


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
    monkeypatch.setattr(dtype, "processor", lambda: processor)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: wide)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert resolve_dtype("auto", torch.device("cpu")) == wanted


@pytest.mark.parametrize(
    ("bfloat16", "capability", "wanted"),
    [
        (True, (9, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),  # T4, RTX 20xx
        (False, (7, 0), torch.float16),  # V100
        (False, (6, 1), torch.float32),  # GTX 10xx: no tensor cores
    ],
)
def test_auto_on_a_gpu_is_what_its_tensor_cores_multiply(monkeypatch, bfloat16, capability, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_dtype("auto", torch.device("cuda")) == wanted


@pytest.mark.parametrize(
    ("name", "supported", "said"),
    [
        ("bfloat16", False, "bfloat16"),
        ("float16", False, "float16"),
        ("bfloat16", True, ""),
        ("tf32", True, "tf32"),
        ("auto", False, ""),
    ],
)
def test_what_a_cpu_is_ill_suited_to_is_said(monkeypatch, caplog, name, supported, said):
    monkeypatch.setattr(dtype, "_cpu_has", lambda _: supported)
    resolve_dtype(name, torch.device("cpu"))
    assert bool(caplog.records) == bool(said)
    assert said in caplog.text


def test_inside_exact_float32_is_float32():
    resolve_dtype("tf32", torch.device("cuda"))
    with no_tf32(torch.device("cuda")):
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
