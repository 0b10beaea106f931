"""A page as a browser shows it: how wide it is, what it complains of, and what it tried to load.

`look` loads one once; `open_browser` stays, and does what a person would.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any, BinaryIO

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")

# The page stands in a frame of the wanted width, because a headless window has a least width of its own.
# What would be loaded from anywhere is refused, and a refusal is a line on the console.
_AROUND = """<!doctype html><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<iframe width="{width}" height="900" frameborder="0" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const images = [...page.images];
  document.body.innerHTML = "<pre>" + JSON.stringify({{
    width: root.clientWidth, content: root.scrollWidth,
    broken: images.filter(image => !image.naturalWidth).length,
    scheme: page.defaultView.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
  }}) + "</pre>";
}});
</script>"""


@dataclass(frozen=True)
class Seen:
    """Px of the frame and of its content; images that did not load; light or dark; the console's lines."""

    width: int
    content: int
    broken: int
    scheme: str
    console: list[str]


def look(page: str, folder: Path, width: int, dark: bool = False) -> Seen:
    """Load ``page`` (HTML) in headless Chromium, in a window ``width`` px wide. Skips the test without a browser."""
    browser = _browser()
    around = folder / "around.html"
    around.write_text(_AROUND.format(width=width, page=escape(page)), encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [
            browser, *_FLAGS, "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr", *scheme, "--dump-dom", around.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<pre>(.*?)</pre>", done.stdout)
    assert found, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(**json.loads(unescape(found[1])), console=console)


def _browser() -> str:
    """Its program. Skips the test without one."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here")
    return found


@dataclass
class Tab:
    """A page that stays open, by the DevTools protocol; ``errors`` and ``requests`` are all there were so far."""

    _browser: "Browser"
    _target: str
    _session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def run(self, script: str) -> Any:
        """What the JavaScript expression gives, awaited where it is a promise."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> Any:
        """The first answer that JavaScript takes for true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, (script, self.run("document.body.innerText"), self.errors)
            time.sleep(0.1)
        return found

    def type(self, where: str, text: str) -> None:
        """Into the field that ``where`` selects, in the place of what is there, key by key."""
        self.run(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({where!r}))")
        self.call("Input.insertText", text=text)
        self.run(f"document.querySelector({where!r}).blur()")

    def click(self, where: str) -> None:
        self.run(f"document.querySelector({where!r}).click()")

    def download(self, where: str) -> Path:
        """What a click on it leaves in the folder of downloads, which is emptied before."""
        shutil.rmtree(self._browser.downloads)
        self._browser.downloads.mkdir()
        self.click(where)
        end = time.monotonic() + 60
        while not (new := [file for file in self._browser.downloads.iterdir() if file.suffix != ".crdownload"]):
            assert time.monotonic() < end, self.errors
            time.sleep(0.1)
        return new[0]

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def screenshot(self, path: Path) -> None:
        """The whole page, below the window's edge too."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)


class Browser:
    """Messages end with a zero byte; an answer carries the number of its question, everything else is news."""

    def __init__(self, to: BinaryIO, answers: BinaryIO, downloads: Path) -> None:
        self._to, self._answers, self._number = to, answers, 0
        self._tabs: dict[str, Tab] = {}
        self.downloads = downloads
        downloads.mkdir()
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def open(self, address: str, width: int) -> Tab:
        # In a window of its own: of two tabs in one, that behind draws no frame, and its timers starve under load.
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.resize(width)
        tab.call("Page.navigate", url=address)
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._to.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        letters = b""
        while not letters.endswith(b"\0"):
            letter = self._answers.read(1)
            assert letter, "the browser has gone"
            letters += letter
        found: dict[str, Any] = json.loads(letters[:-1])
        return found

    def _note(self, news: dict[str, Any]) -> None:
        tab = self._tabs.get(news.get("sessionId", ""))
        if tab is None:
            return
        match news["method"], news["params"]:
            case "Network.requestWillBeSent", told:
                tab.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown", told:
                tab.errors.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled", {"type": "error", "args": said}:
                tab.errors.append(json.dumps(said))
            case "Log.entryAdded", {"entry": {"level": "error"} as entry}:
                tab.errors.append(json.dumps(entry))


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Headless Chromium, with its profile and downloads in ``folder``. Skips the test without one."""
    theirs_in, to = os.pipe()
    answers, theirs_out = os.pipe()
    # It reads from descriptor 3 and writes to 4.
    wire = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    flags = ["--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        ["bash", "-c", wire, "bash", _browser(), *_FLAGS, *flags, "about:blank"],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    with os.fdopen(to, "wb", buffering=0) as writing, os.fdopen(answers, "rb") as reading:
        try:
            yield Browser(writing, reading, folder / "downloads")
        finally:
            process.terminate()
            process.wait(30)
