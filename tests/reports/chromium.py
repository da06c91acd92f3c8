"""A page in headless Chromium, driven over its debugging pipe: the DevTools protocol, without a package of its own.

Messages are JSON that ends with a null byte (Chromium, content/browser/devtools/devtools_pipe_handler.cc). The browser reads
them on descriptor 3 and writes on descriptor 4.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 60.0


def browser() -> str:
    """The path of a Chromium; skips the test where none is installed."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no headless browser: install one of {', '.join(NAMES)} (Debian: apt-get install chromium)")
    return found


@dataclass
class Page:
    """A tab. `problems`: console errors and warnings, uncaught exceptions, and requests that are not of the file itself."""

    _to: int
    _from: int
    session: str = ""
    problems: list[str] = field(default_factory=list)
    _number: int = 0
    _rest: bytes = b""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that come first are looked at."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == number:
                assert "error" not in got, f"{method}: {got['error']}"
                return dict(got["result"])
            self._note(got)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> float:
        """Show a file at a width in CSS pixels; returns seconds from the start of navigation until everything is drawn."""
        height = 844 if width < 600 else 900
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        failed = self.call("Page.navigate", url=path.resolve().as_uri()).get("errorText")
        assert not failed, f"{path}: {failed}"
        until = time.monotonic() + _SECONDS
        while not self.evaluate("document.readyState === 'complete' && performance.now()"):
            assert time.monotonic() < until, f"{path} was not loaded in {_SECONDS} s"
        # two frames later what the scripts drew has been painted
        seconds = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() / 1e3))))"
        return float(self.evaluate(seconds))

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds: some events come a frame or more after their cause."""
        until = time.monotonic() + _SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"did not come true: {expression}"
            time.sleep(0.02)

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than its window."""
        return int(self.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._from, 1 << 20)
            assert read, "the browser ended"
            self._rest += read
        one, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(one))

    def _note(self, event: dict[str, Any]) -> None:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console {given['type']}: {[arg.get('value') for arg in given['args']]}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {given['exceptionDetails'].get('exception', {}).get('description')}")
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.problems.append(f"log: {given['entry']['text']}")
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(
            ("file:", "data:", "blob:")
        ):
            self.problems.append(f"request: {given['request']['url']}")


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A tab in a browser of its own, whose files go to the folder `profile`."""
    inward, to_browser = os.pipe()
    from_browser, outward = os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    quiet = ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage"]
    command = ["bash", "-c", f'exec "$@" 3<&{inward} 4>&{outward}', "chromium", browser(), *options, *quiet]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(inward, outward),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(inward)
    os.close(outward)
    try:
        tab = Page(to_browser, from_browser)
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        yield tab
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
