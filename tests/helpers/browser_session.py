"""A headless Chromium that a test drives: keys, pointer, scripts, and what it says on its console.

It speaks the DevTools protocol through a pipe, so it needs no other package.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES

KEY_CODES = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40, "End": 35, "Home": 36}


class Tab:
    """One tab of a running browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.console: list[str] = []
        browser.tabs[session] = self
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **values: object) -> Any:
        """Call a method of the protocol and return its result."""
        return self._browser.send(method, values, self._session)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Set the size of the window in pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile},
        )

    def open(self, address: str) -> None:
        """Load a page."""
        self.send("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Value of a script, after its promise."""
        answer = self.send(
            "Runtime.evaluate",
            **{"expression": script, "awaitPromise": True, "returnByValue": True},
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, *, sec: float = 60) -> None:
        """Wait until a script gives a true value."""
        end = time.monotonic() + sec
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}; console: {self.console}"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            code = KEY_CODES.get(key, ord(key[0].upper()))
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **_code(code))
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **_code(code))

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the pointer at the first point, move it through the others, release it."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.send(
                "Input.dispatchMouseEvent",
                **{"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1},
            )

    def screenshot(self, path: Path) -> None:
        """Write what is visible as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


def _code(code: int) -> dict[str, int]:
    return {"windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}


def _high(descriptor: int) -> int:
    """Move a descriptor to 10 or above, out of the way of 3 and 4."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


class Browser:
    """A browser process."""

    def __init__(self, requests: int, replies: int) -> None:
        self.tabs: dict[str, Tab] = {}
        self._requests, self._replies, self._number, self._buffer = requests, replies, 0, b""

    def new_tab(self) -> Tab:
        """Open an empty tab."""
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})
        return Tab(self, attached["sessionId"])

    def send(self, method: str, values: dict[str, Any], session: str | None = None) -> Any:
        """Send a request and wait for its answer; hear what the consoles say meanwhile."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": values}
        request |= {"sessionId": session} if session else {}
        os.write(self._requests, json.dumps(request).encode() + b"\0")
        end = time.monotonic() + 90
        while True:
            message = self._message(end)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            tab = self.tabs.get(message.get("sessionId", ""))
            if tab and message["method"] in (
                *("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"),
            ):
                tab.console.append(json.dumps(message["params"])[:600])

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            self._buffer += os.read(self._replies, 1 << 20)
        text, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found


@contextlib.contextmanager
def browser(work: Path) -> Iterator[Browser]:
    """Start a browser; skips the test where no Chromium is installed."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no headless browser: none of {', '.join(NAMES)} is on the PATH")
    theirs, requests = (_high(end) for end in os.pipe())
    replies, theirs_too = (_high(end) for end in os.pipe())

    def place() -> None:
        """Chromium reads descriptor 3 and writes to 4."""
        os.dup2(theirs, 3)
        os.dup2(theirs_too, 4)

    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    command += [f"--user-data-dir={work / 'profile'}", "--hide-scrollbars", "about:blank"]
    process = subprocess.Popen(
        command,
        pass_fds=[3, 4],
        preexec_fn=place,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(theirs_too)
    try:
        yield Browser(requests, replies)
    finally:
        process.kill()
        process.wait()
        os.close(requests)
        os.close(replies)
