"""A score, its circumstances, and the pictures behind it, in one HTML file that needs no other."""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from discli.files import write_text
from discli.report.score_table import class_rows, fact_rows, score_rows
from discli.report.sheet import contact_sheet

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
@media (max-width: 40rem) {
  th, td { display: block; width: auto; padding: .1rem 0; }
  th { color: GrayText; padding-top: .5rem; }
}
"""


@dataclass(frozen=True)
class NearestPictures:
    """Q samples (Q, 3, H, W), for each the k nearest reference pictures (Q, k, 3, H, W), and how far (Q, k)."""

    samples: Tensor
    neighbours: Tensor
    distances: Tensor


def write_score_card(path: Path, result: dict[str, Any], samples: Tensor, nearest: NearestPictures | None) -> None:
    """``result`` as eval-fid returns it, ``samples`` (N, 3, H, W) uint8. Written beside its name, then renamed."""
    page = score_card(result, samples, nearest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def score_card(result: dict[str, Any], samples: Tensor, nearest: NearestPictures | None) -> str:
    """The page as text."""
    name = escape(Path(result["samples"]["path"]).name)
    parts = [
        f"<h1>Score card: {name}</h1>",
        _table(score_rows(result), "scores"),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in result["warnings"]),
        "<h2>What was compared, and how</h2>",
        _table(fact_rows(result)),
        f"<h2>{len(samples):,} of {result['samples']['n']:,} samples</h2>",
        _image(contact_sheet(samples), "samples", samples.shape[-1]),
    ]
    if nearest is not None:
        parts += ["<h2>Nearest reference pictures</h2>", _neighbours(nearest)]
    if result["per_class"]:
        parts += ["<h2>Each class on its own</h2>", _classes(result["per_class"])]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: score card</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _neighbours(nearest: NearestPictures) -> str:
    columns = 1 + nearest.neighbours.shape[1]
    return (
        "<p>In each row a sample (framed), then the reference pictures nearest to it in feature space, with their"
        " distances. Near copies are memorisation.</p>"
        f'<div class="near" style="--columns: {columns}">{"".join(_cells(nearest))}</div>'
    )


def _cells(nearest: NearestPictures) -> Iterator[str]:
    side = nearest.samples.shape[-1]
    rows = zip(nearest.samples, nearest.neighbours, nearest.distances.tolist(), strict=True)
    for sample, neighbours, distances in rows:
        yield f'<figure class="sample">{_picture(sample, "sample", side)}<figcaption>sample</figcaption></figure>'
        for neighbour, distance in zip(neighbours, distances, strict=True):
            picture = _picture(neighbour, "reference picture", side)
            yield f"<figure>{picture}<figcaption>{distance:.3g}</figcaption></figure>"


def _classes(classes: list[dict[str, Any]]) -> str:
    largest = max(row["distance"] for row in classes) or 1.0
    distances = {row["class"]: row["distance"] for row in classes}
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}"
        f'<div class="bar" style="width: {100 * distances[name] / largest:.1f}%"></div></td></tr>'
        for name, value in class_rows(classes)
    )
    return f"<p>The distance of each class to its own reference pictures, the worst first.</p><table>{rows}</table>"


def _table(rows: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    cells = "".join(f"<tr><th>{escape(name.strip())}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="{kind}">{cells}</table>'


def _picture(picture: Tensor, what: str, side: int) -> str:
    return _image(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()), what, side)


def _image(picture: Image.Image, what: str, side: int) -> str:
    buffer = io.BytesIO()
    kind = "png" if side <= _LOSSLESS_UP_TO else "jpeg"
    picture.save(buffer, format=kind, quality=90)
    return f'<img alt="{escape(what)}" src="data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}">'
