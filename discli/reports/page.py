"""What every HTML report is put together from: one file that needs no other, light and dark, desktop and phone."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image
from torch import Tensor

_LOSSLESS_UP_TO = 64  # px a side; a sheet of larger images would make a page of many megabytes

# The browser itself refuses what would need another file or run code.
_NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --line: #8884; --soft: #59636e; --marked: #fff3c4;
  --plot-1: #1f77b4; --plot-2: #d1610a; --plot-3: #2a8f2a; --plot-4: #b8327f; --plot-5: #8459b5; --plot-6: #8c564b;
  --good: #1a7f37; --busy: #0969da; --bad: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #a0a8b0; --marked: #4a3c00;
    --plot-1: #5aaee8; --plot-2: #ff9a45; --plot-3: #5fca5f; --plot-4: #f687b3; --plot-5: #bf9bea; --plot-6: #cf9a8f;
    --good: #4ac26b; --busy: #6cb6ff; --bad: #ff8a80; }
}
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h1, p, li { overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 500; width: 30%; }
.scores td { font-size: 1.25rem; font-variant-numeric: tabular-nums; line-height: 1.2; }
.scores tr:first-child th { font-weight: 700; }
.scores tr:first-child td { font-size: 2rem; font-weight: 700; }
.warning { border-left: .3rem solid #c80; padding-left: .8rem; }
.bar { background: #48c; height: .35rem; border-radius: .2rem; }
img { max-width: 100%; image-rendering: pixelated; display: block; }
.near { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: .4rem; max-width: 48rem; }
.near figure { margin: 0; }
.near img { width: 100%; }
.near figcaption { font-size: .75rem; text-align: center; color: var(--soft); }
.near .sample img { outline: .2rem solid #48c; }
.wide { overflow-x: auto; }
.columns { font-size: .9rem; font-variant-numeric: tabular-nums; }
.columns th, .columns td { width: auto; white-space: nowrap; border-bottom: 1px solid var(--line); }
.columns td:first-child { white-space: normal; min-width: 8rem; }
.columns th:not(:first-child), .columns td:not(:first-child) { text-align: right; }
.plot svg { max-width: 100%; height: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.plots figure, .shots figure { margin: 0; min-width: 0; }
.plots svg { width: 100%; }
figcaption { font-size: .85rem; color: var(--soft); }
.state { font-size: .85rem; font-weight: 600; padding: .1rem .6rem; border: 1px solid; border-radius: 1rem; }
.good { color: var(--good); } .busy { color: var(--busy); } .bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .7rem; }
.tiles span { display: block; font-size: .8rem; color: var(--soft); }
.tiles b { display: block; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.shots { display: grid; gap: .8rem; }
.shots img { width: 100%; image-rendering: auto; }
.samples { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: .8rem; }
.samples .shots { grid-template-columns: repeat(2, minmax(0, 1fr)); align-content: start; }
.samples .newest { grid-template-columns: minmax(0, 1fr); }
.recipe { columns: 2; }
footer { margin-top: 2.5rem; font-size: .85rem; color: var(--soft); }
pre { margin: 0 0 1rem; break-inside: avoid; white-space: pre-wrap; overflow-wrap: anywhere; }
pre { font: .85rem/1.5 ui-monospace, monospace; }
pre b { display: block; font-weight: 600; background: var(--marked); }
@media (max-width: 40rem) {
  .samples { grid-template-columns: minmax(0, 1fr); }
  .recipe { columns: 1; }
  table:not(.columns) :is(th, td) { display: block; width: auto; padding: .1rem 0; }
  table:not(.columns) th { color: var(--soft); padding-top: .5rem; }
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole document; ``body`` is HTML, part by part."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_NOTHING_FROM_OUTSIDE}">'
        f"<style>{_STYLE}</style></head>\n<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def facts(rows: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """(heading, text) rows; on a phone the text stands below its heading."""
    cells = "".join(f"<tr><th>{escape(name.strip())}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="{kind}">{cells}</table>'


def columns(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under a line of headings, the first column text; one wider than the page scrolls by itself."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="columns"><tr>{head}</tr>{lines}</table></div>'


def tile(image: Tensor, what: str) -> str:
    """One image, (3, H, W) uint8."""
    return embed(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), what, image.shape[-1])


def embed(image: Image.Image, what: str, side: int, quality: int = 90) -> str:
    """An image inside the page; of ``side`` px a tile, which decides between PNG and JPEG of that ``quality``."""
    buffer = io.BytesIO()
    kind = "png" if side <= _LOSSLESS_UP_TO else "jpeg"
    image.save(buffer, format=kind, quality=quality)
    return f'<img alt="{escape(what)}" src="data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}">'
