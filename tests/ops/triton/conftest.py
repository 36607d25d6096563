"""The kernels run on the CPU here, in Triton's interpreter; on CUDA where there is one."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
