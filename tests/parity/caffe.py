"""Weights of the Caffe cases: fill()'s, but bilinear deconvolutions where the case says so."""

import numpy as np

from . import weights


def caffe_weights(said: dict) -> dict[str, np.ndarray]:
    state = weights.fill(said["shapes"])
    for name in said.get("bilinear", ()):
        classes, _, size, _ = state[name].shape
        # f = (k + 1) // 2, center f - 0.5 for an even k; on the diagonal of classes alone.
        factor = (size + 1) // 2
        center = factor - 1 if size % 2 else factor - 0.5
        ramp = 1 - np.abs(np.arange(size) - center) / factor
        state[name][:] = 0
        state[name][range(classes), range(classes)] = np.outer(ramp, ramp)
    return state
