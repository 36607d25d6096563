"""`perpixel serve` from its start to its end."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from perpixel.cli import main


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a `serve` command that fails; returns its exit code and stderr."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**30))  # put back afterwards
        monkeypatch.setattr(sys, "argv", ["perpixel", "serve", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_when_told(model, number):
    command = [sys.executable, "-m", "perpixel", "serve", model, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert address is not None
            answer = httpx.get(f"{address[0]}/healthz", trust_env=False, timeout=30)
            assert answer.json() == {"status": "ok"}
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert "Traceback" not in err
    assert process.returncode in (0, -number)


def test_a_taken_port_is_named(refused, model):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, err = refused(model, "--port", port, "--device", "cpu")
    assert (code, f"port {port}" in err, "--port" in err) == (1, True, True)


def test_a_missing_extra_is_named(refused, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, err = refused(model)
    assert (code, "perpixel[serve]" in err) == (1, True)


def test_opencv_is_given_the_same_limit(refused, model, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: sockets[0].close())
    assert refused(model, "--port", 0, "--max-pixels", 4321, "--device", "cpu")[0] == 0
    assert os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] == "4321"
