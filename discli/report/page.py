"""What every HTML report is put together from: one file that needs no other, light and dark, desktop and phone."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image
from torch import Tensor

_LOSSLESS_UP_TO = 64  # px a side; a sheet of larger pictures would make a page of many megabytes

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; --line: #8884; --quiet: #8887; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
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
.near figcaption { font-size: .75rem; text-align: center; color: GrayText; }
.near .sample img { outline: .2rem solid #48c; }
.wide { overflow-x: auto; }
.columns { font-size: .9rem; font-variant-numeric: tabular-nums; }
.columns th, .columns td { width: auto; white-space: nowrap; border-bottom: 1px solid var(--line); }
.columns th:not(:first-child), .columns td:not(:first-child) { text-align: right; }
.plot svg { max-width: 100%; height: auto; }
@media (max-width: 40rem) {
  table:not(.columns) :is(th, td) { display: block; width: auto; padding: .1rem 0; }
  table:not(.columns) th { color: GrayText; padding-top: .5rem; }
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole document; ``body`` is HTML, part by part."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
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


def tile(picture: Tensor, what: str) -> str:
    """One picture, (3, H, W) uint8."""
    return image(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()), what, picture.shape[-1])


def image(picture: Image.Image, what: str, side: int) -> str:
    """A picture inside the page; of ``side`` px a tile, which decides between PNG and JPEG."""
    buffer = io.BytesIO()
    kind = "png" if side <= _LOSSLESS_UP_TO else "jpeg"
    picture.save(buffer, format=kind, quality=90)
    return f'<img alt="{escape(what)}" src="data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}">'
