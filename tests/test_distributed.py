import pytest
import torch

from perpixel import distributed


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
