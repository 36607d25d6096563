"""Signals that ask a run to stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from perpixel.io.atomic import redirect_to_devnull

_ECHO = 1.0
"""Seconds within which signals count as one under torchrun, where SLURM and torchrun both send."""


@contextmanager
def preemption_flag() -> Iterator[threading.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets; the second has its usual effect.

    Under torchrun a stopped process ignores signals from then on: torchrun sends one to all others
    when the first leaves, and they are leaving already.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    installed = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A handler from C is None here, and could not be put back: that signal is left alone.
    usual = {number: handler for number, handler in installed.items() if handler is not None}
    echo = _ECHO if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
    first: float | None = None

    def stop(number: int, frame: object) -> None:  # noqa: ARG001  the signal module's signature
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            flag.set()
            _tell(b"\nstopping after the step or evaluation at hand; again to stop at once\n\n")
        elif now - first >= echo:
            for restored, handler in usual.items():
                signal.signal(restored, handler)
            signal.raise_signal(number)

    for number in usual:
        signal.signal(number, stop)
    try:
        yield flag
    finally:
        leaving = flag.is_set() and echo > 0
        for number, handler in usual.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)


def _tell(line: bytes) -> None:
    """Writes to stderr's descriptor: the signal may have interrupted Python's own buffered write.

    Ctrl-C may have ended the reader of a pipe, too. Without sys.stderr, descriptor 2 may be any
    other file.
    """
    if sys.stderr is None:
        return
    try:
        os.write(sys.stderr.fileno(), line)
    except (OSError, ValueError):
        redirect_to_devnull(sys.stderr)
