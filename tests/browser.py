"""A page as a browser shows it: how wide it is, what it complains of, and what it tried to load."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

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
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    around = folder / "around.html"
    around.write_text(_AROUND.format(width=width, page=escape(page)), encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *scheme,
            "--dump-dom", around.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<pre>(.*?)</pre>", done.stdout)
    assert found, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(**json.loads(unescape(found[1])), console=console)
