"""Signals that ask a run to stop, and what is said then."""

import os
import signal
import subprocess
import sys

import pytest

from perpixel.training.preemption import preemption_flag


def test_without_a_stderr_no_file_gets_the_message(tmp_path):
    """Where descriptor 2 was closed, the next file that is opened has it."""
    script = (
        "import os, signal, sys\n"
        "from perpixel.training.preemption import preemption_flag\n"
        "with open(sys.argv[1], 'wb') as file, preemption_flag() as flag:\n"
        "    assert file.fileno() == 2\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    assert flag.is_set()\n"
    )
    file = tmp_path / "file"
    words = [sys.executable, "-c", script, file]
    subprocess.run(words, check=True, preexec_fn=lambda: os.close(2))
    assert file.read_bytes() == b""


@pytest.mark.parametrize("closed", [False, True], ids=["unread", "closed"])
def test_a_message_that_nobody_reads_stops_nothing(monkeypatch, closed: bool):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        if closed:
            stream.close()
        with preemption_flag() as flag:
            signal.raise_signal(signal.SIGTERM)
            assert flag.is_set()


def test_a_handler_from_c_is_left_alone(monkeypatch):
    def handler(number: int):
        return None if number == signal.SIGTERM else signal.default_int_handler

    monkeypatch.setattr(signal, "getsignal", handler)
    set_for = []
    monkeypatch.setattr(signal, "signal", lambda number, _: set_for.append(number))
    with preemption_flag():
        pass
    assert set(set_for) == {signal.SIGINT}
