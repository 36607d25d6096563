"""Runs one toolkit's cases on demand; started by peers.py, in the toolkit's own environment.

Orders come as lines of JSON on the standard input, answers go as such to the standard output.
What a toolkit prints itself goes to the standard error.
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    subject = importlib.import_module(f"subjects.with_{sys.argv[1]}")
    if os.environ.get("OMP_NUM_THREADS"):
        import cv2

        cv2.setNumThreads(int(os.environ["OMP_NUM_THREADS"]))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run = None
    for line in sys.stdin:
        order = json.loads(line)
        value = 0.0
        try:
            if order["do"] == "make":
                _choose(torch, order["case"].get("device", "cpu"))
                run = getattr(subject, order["what"])(order["case"])
            elif order["do"] == "run":
                _wait(torch)
                start = time.perf_counter()
                run()
                _wait(torch)
                value = time.perf_counter() - start
            elif torch.cuda.is_initialized():
                value = torch.cuda.max_memory_allocated()
            else:
                value = _peak()
            answer = {"value": value}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _choose(torch: object, device: str) -> None:
    """Makes a GPU CUDA's current device: the one that is waited for and whose memory is told."""
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise SystemExit(
            f"{device}: torch {torch.__version__} of {sys.executable} has no GPU to use here; "
            "it takes one, and a torch that is built for CUDA"
        )
    torch.cuda.set_device(torch.empty(0, device=device).device)  # with its index, as it must be


def _peak() -> int:
    """The most memory that this process has had, in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _wait(torch: object) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
