"""A score, its circumstances, and the images behind it, in one HTML file that needs no other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from torch import Tensor

from discli.data.contact_sheet import contact_sheet
from discli.reports.page import embed, facts, page, tile
from discli.reports.score_table import class_rows, fact_rows, score_rows
from discli.runs.eval_result import ClassScore, EvalResult
from discli.runtime.files import write_text


@dataclass(frozen=True)
class NearestImages:
    """Q samples (Q, 3, H, W), for each the k nearest reference images (Q, k, 3, H, W), and how far (Q, k)."""

    samples: Tensor
    neighbours: Tensor
    distances: Tensor


def write_score_card(path: Path, result: EvalResult, samples: Tensor, nearest: NearestImages | None) -> None:
    """``result`` as eval-fid returns it, ``samples`` (N, 3, H, W) uint8. Written beside its name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, score_card(result, samples, nearest))


def score_card(result: EvalResult, samples: Tensor, nearest: NearestImages | None) -> str:
    """The page as text."""
    name = Path(result.samples.path).name
    parts = [
        f"<h1>Score card: {escape(name)}</h1>",
        facts(score_rows(result), "scores"),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in result.warnings),
        "<h2>What was compared, and how</h2>",
        facts(fact_rows(result)),
        f"<h2>{len(samples):,} of {result.samples.n:,} samples</h2>",
        embed(contact_sheet(samples), "samples", samples.shape[-1]),
    ]
    if nearest is not None:
        parts += ["<h2>Nearest reference images</h2>", _neighbours(nearest)]
    if result.per_class:
        parts += ["<h2>Each class on its own</h2>", _classes(result.per_class)]
    return page(f"{name}: score card", parts)


def _neighbours(nearest: NearestImages) -> str:
    columns = 1 + nearest.neighbours.shape[1]
    return (
        "<p>In each row a sample (framed), then the reference images nearest to it in feature space, with their"
        " distances. Near copies are memorisation.</p>"
        f'<div class="near" style="--columns: {columns}">{"".join(_cells(nearest))}</div>'
    )


def _cells(nearest: NearestImages) -> Iterator[str]:
    rows = zip(nearest.samples, nearest.neighbours, nearest.distances.tolist(), strict=True)
    for sample, neighbours, distances in rows:
        yield f'<figure class="sample">{tile(sample, "sample")}<figcaption>sample</figcaption></figure>'
        for neighbour, distance in zip(neighbours, distances, strict=True):
            image = tile(neighbour, "reference image")
            yield f"<figure>{image}<figcaption>{distance:.3g}</figcaption></figure>"


def _classes(classes: Sequence[ClassScore]) -> str:
    largest = max(row.distance for row in classes) or 1.0
    distances = {row.name: row.distance for row in classes}
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}"
        f'<div class="bar" style="width: {100 * distances[name] / largest:.1f}%"></div></td></tr>'
        for name, value in class_rows(classes)
    )
    return f"<p>The distance of each class to its own reference images, the worst first.</p><table>{rows}</table>"
