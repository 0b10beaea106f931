"""A score, its circumstances, and the pictures behind it, in one HTML file that needs no other."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from discli.files import write_text
from discli.report.score_table import fact_rows, score_rows
from discli.report.sheet import contact_sheet

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem 1.2rem .2rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.scores td { font-size: 1.3rem; }
.warning { border-left: .3rem solid #c80; padding-left: .8rem; }
img { max-width: 100%; image-rendering: pixelated; }
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
    name = Path(result["samples"]["path"]).name
    parts = [
        f"<h1>Score card: {escape(name)}</h1>",
        _table(score_rows(result), "scores"),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in result["warnings"]),
        "<h2>What was compared, and how</h2>",
        _table(fact_rows(result)),
    ]
    if result["per_class"]:
        rows = ((row["class"], f"{row['distance']:.4g} (n = {row['n']:,})") for row in result["per_class"])
        parts += ["<h2>Each class on its own</h2>", _table(rows)]
    parts += [f"<h2>The first {len(samples)} samples</h2>", _image(contact_sheet(samples), "samples")]
    if nearest is not None:
        parts += ["<h2>Nearest reference pictures</h2>", _neighbours(nearest)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: score card</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _neighbours(nearest: NearestPictures) -> str:
    rows = torch.cat([nearest.samples[:, None], nearest.neighbours], dim=1)
    sheet = contact_sheet(rows.flatten(0, 1), columns=rows.shape[1])
    closest = ", ".join(f"{distance:.3g}" for distance in nearest.distances[:, 0].tolist())
    return (
        "<p>Each row: a sample, then the reference pictures nearest to it in feature space, nearest first."
        " A row of near copies is memorisation.</p>"
        f"{_image(sheet, 'samples and their nearest reference pictures')}"
        f"<p>Distances to the nearest, row by row: {closest}</p>"
    )


def _table(rows: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    cells = "".join(f"<tr><th>{escape(name.strip())}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="{kind}">{cells}</table>'


def _image(picture: Image.Image, what: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
