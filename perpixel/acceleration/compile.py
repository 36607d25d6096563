"""torch.compile, with an error where this machine has no compiler."""

import os
import shutil
from typing import Any

from perpixel.errors import UsageError
from perpixel.models.segmenter import Segmenter


def compile_model(model: Segmenter, **options: Any) -> None:
    """Compiles the model at its next call; `options` are torch.compile's. Key names stay.

    Raises UsageError when the model is on a CPU and there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if model.device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"compiling a model for a CPU needs a C++ compiler, and {compiler!r} is not on the "
            f"path: install g++, name yours in CXX, or do without compiling"
        )
    model.compile(**options)
