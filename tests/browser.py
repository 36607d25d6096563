"""A headless Chromium, driven through its chromedriver by the W3C WebDriver protocol."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-prefers-reduced-motion",
)  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_OPENER = build_opener(ProxyHandler({}))


class Browser:
    """One window. Elements are named by CSS selectors."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What a script's body returns; a promise is waited for."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        return str(self._call("GET", f"/element/{self._find(selector)}/text"))

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Keys into an element; a path into a file input."""
        self._call("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        steps = [
            {"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")
        ]  # fmt: skip
        source = {"type": "key", "id": "keyboard", "actions": steps}
        self._call("POST", "/actions", {"actions": [source]})

    def move(self, x: int, y: int) -> None:
        """The mouse pointer to a place in the window."""
        step = {"type": "pointerMove", "x": x, "y": y, "duration": 0}
        source = {"type": "pointer", "id": "mouse", "actions": [step]}
        self._call("POST", "/actions", {"actions": [source]})

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def messages(self) -> list[str]:
        """What the browser's console has said since the last call."""
        found = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in found]

    def _find(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return _call(method, self._session + path, body)


def wait(condition: Callable[[], object], what: str, *, seconds: float = 30) -> None:
    """Until something is so; fails the test when that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"after {seconds} s still not so: {what}")
        time.sleep(0.05)


@contextmanager
def chromium(folder: Path, *, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`, and its downloads there in `downloads`.

    Skips the test where there is no Chromium or no chromedriver.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine's PATH")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        started = next(line for line in process.stdout if "successfully on port" in line)
        driver_url = f"http://127.0.0.1:{started.rstrip().rstrip('.').rsplit(' ', 1)[1]}"
        arguments = [*_FLAGS, f"--user-data-dir={folder / 'profile'}",
                     f"--window-size={width},{height}"]  # fmt: skip
        preferences = {"download.default_directory": str(folder / "downloads")}
        options = {"binary": program, "args": arguments, "prefs": preferences}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = _call(
            "POST", f"{driver_url}/session", {"capabilities": {"alwaysMatch": wanted}}
        )  # fmt: skip
        session = f"{driver_url}/session/{made['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _call("DELETE", session, None)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _call(method: str, url: str, body: object) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = Request(url, content, {"Content-Type": "application/json"}, method=method)
    with _OPENER.open(request, timeout=120) as answer:
        return json.load(answer)["value"]
