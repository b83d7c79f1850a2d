"""A headless Chromium for tests: opens a page, presses, reads, and hears what goes wrong.

Speaks the DevTools protocol over the pipe that ``--remote-debugging-pipe`` opens, so that no
package and no port is needed.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
MISSING = "needs Chromium on the PATH (Debian: apt install chromium)"
SECONDS = 60  # for any answer; shared cores are slow


class Browser:
    """One page of a running Chromium.

    ``faults`` holds what the open page logged as an error or threw, ``requests`` every address
    that it asked for outside of itself.
    """

    def __init__(self, to: Any, back: Any) -> None:
        self._to, self._back = to, back
        self._number = 0
        self._session: str | None = None
        self.faults: list[str] = []
        self.requests: list[str] = []
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, page: Path, width: int = 1366, height: int = 900) -> None:
        """Open a file and wait until it and all it shows is there."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self.faults, self.requests = [], []
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete'")
        own = (page.resolve().as_uri(), "data:")
        self.requests = [address for address in self.requests if not address.startswith(own)]

    def prefer(self, colours: str) -> None:
        """What pages take for the reader's wish: `light` or `dark`."""
        wish = {"name": "prefers-color-scheme", "value": colours}
        self._ask("Emulation.setEmulatedMedia", features=[wish])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; promises are waited for."""
        answer = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for an expression to become true."""
        self._until(lambda: bool(self.value(expression)), expression)

    def press(self, key: str, code: int) -> None:
        """Press and release a key: its name and its Windows key code, as the protocol wants."""
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window, in pixels."""
        self._mouse("mouseMoved", x, y, held=False)

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Press the left button at one place, release it at another."""
        self._mouse("mousePressed", x, y, held=True)
        self._mouse("mouseMoved", to_x, to_y, held=True)
        self._mouse("mouseReleased", to_x, to_y, held=False)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        answer = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _mouse(self, kind: str, x: float, y: float, held: bool) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        self._ask(
            "Input.dispatchMouseEvent",
            **{"type": kind, "x": x, "y": y, "button": button, "buttons": int(held)},
            clickCount=1,
        )

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, f"never came true: {what}"
            time.sleep(0.05)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                return dict(answer["result"])
            self._note(answer)
        raise AssertionError("Chromium ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        rest = bytearray()
        while byte := self._back.read(1):
            if byte != b"\0":
                rest += byte
                continue
            yield json.loads(rest)
            rest.clear()

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.faults.append(json.dumps(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.faults.append(told["entry"]["text"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile, which ends with the block; a test skips without one."""
    if not PROGRAM:
        pytest.skip(MISSING)
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()
    # The protocol's pipe is file descriptors 3 and 4 of the browser: keep ours clear of them.
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, back_write))
    command = f'exec "$@" 3<&{read} 4>&{write}'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", PROGRAM, *options, "about:blank"],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_read, back_write, read, write):
        os.close(end)
    try:
        with os.fdopen(to_write, "wb") as to, os.fdopen(back_read, "rb") as back:
            yield Browser(to, back)
    finally:
        process.terminate()
        process.wait()
