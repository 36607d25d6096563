"""torch.compile, where this machine can."""

import os
import shutil

from perpixel.errors import UsageError
from perpixel.models.segmenter import Segmenter


def compile_for_training(network: Segmenter, *, mode: str) -> None:
    """Compiles the network at its next call; its key names stay. See `require_compiler`.

    Every new picture size is compiled by itself, so that a run resumed with its second size goes on
    with the same kernels.
    """
    require_compiler(network)
    network.compile(mode=mode, dynamic=False)


def compile_for_prediction(network: Segmenter) -> None:
    """Compiles a network in evaluation mode at its next call, its weights then being constants.

    Every new picture size is compiled again. See `require_compiler`.
    """
    require_compiler(network)
    network.compile(options={"freezing": True})


def require_compiler(network: Segmenter) -> None:
    """Raises UsageError when the network is on a CPU and there is no C++ compiler."""
    compiler = os.environ.get("CXX", "g++")
    if network.device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"compiling a network for a CPU needs a C++ compiler, and {compiler!r} is not on the "
            f"path: install g++, name yours in CXX, or do without compiling"
        )
