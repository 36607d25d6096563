"""Runs one toolkit's cases on demand; started by peers.py, in the toolkit's own environment.

Orders come as lines of JSON on the standard input, answers go as such to the standard output.
What a toolkit prints itself goes to the standard error.
"""

import gc
import importlib
import json
import os
import sys
import time
import traceback

import torch
from measure import proc_status, wait_for_gpu


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
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
                _choose(order["case"].get("device", "cpu"))
                run = getattr(subject, order["what"])(order["case"])
            elif order["do"] == "run":
                wait_for_gpu()
                start = time.perf_counter()
                run()
                wait_for_gpu()
                value = time.perf_counter() - start
            elif order["do"] == "reset":
                gc.collect()  # what was made before holds nothing any more
                if torch.cuda.is_initialized():
                    torch.cuda.reset_peak_memory_stats()
            elif torch.cuda.is_initialized():
                value = torch.cuda.max_memory_allocated()
            else:
                value = proc_status("VmHWM")
            answer = {"value": value}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _choose(device: str) -> None:
    """Makes a GPU CUDA's current device: the one that is waited for and whose memory is told."""
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise SystemExit(
            f"{device}: torch {torch.__version__} of {sys.executable} has no GPU to use here; "
            "it takes one, and a torch that is built for CUDA"
        )
    torch.cuda.set_device(torch.empty(0, device=device).device)  # with its index, as it must be


if __name__ == "__main__":
    main()
