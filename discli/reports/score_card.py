"""A score, its circumstances, and the images behind it, in one HTML file that needs no other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from discli.data.contact_sheet import contact_sheet
from discli.reports.page import image_uri, render, tensor_uri
from discli.reports.score_table import class_rows, fact_rows, format_share, score_rows
from discli.runs.eval_result import ClassScore, EvalResult, Recognition
from discli.runtime.files import write_text

Examples = Mapping[tuple[str, str], Tensor]

_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class NearestImages:
    """Samples, and the reference images nearest to each in feature space."""

    samples: Tensor  # (Q, 3, H, W) uint8
    neighbours: Tensor  # (Q, k, 3, H, W) uint8, the nearest first
    distances: Tensor  # (Q, k)


def write_score_card(
    path: Path, result: EvalResult, samples: Tensor, nearest: NearestImages | None, examples: Examples | None = None
) -> None:
    """Write the page: ``result`` as eval-fid returns it, ``samples`` (N, 3, H, W) uint8.

    ``examples``: a sample (3, H, W) for pairs of the class asked for and the class recognised.

    The file is whole or not there. Raises OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, score_card(result, samples, nearest, examples))


def score_card(
    result: EvalResult, samples: Tensor, nearest: NearestImages | None, examples: Examples | None = None
) -> str:
    """The page as text; arguments as of `write_score_card`."""
    return render(
        "score_card.html",
        name=Path(result.samples.path).name,
        result=result,
        scores=score_rows(result),
        about=fact_rows(result),
        shown=len(samples),
        sheet=image_uri(contact_sheet(samples), samples.shape[-1]),
        nearest=_with_neighbours(nearest) if nearest is not None else [],
        classes=_bars(result.per_class or []),
        recognised=_recognised(result.recognised, examples or {}),
        unshown=len(result.recognised.classes) - _CLASSES_SHOWN if result.recognised else 0,
    )


def _with_neighbours(nearest: NearestImages) -> list[tuple[str, list[tuple[str, float]]]]:
    """(sample, [(reference image, its distance), ...]) for each sample; images as URIs."""
    rows = zip(nearest.samples, nearest.neighbours, nearest.distances.tolist(), strict=True)
    return [
        (tensor_uri(sample), list(zip(map(tensor_uri, neighbours), distances, strict=True)))
        for sample, neighbours, distances in rows
    ]


def _recognised(found: Recognition | None, examples: Examples) -> list[dict[str, object]]:
    """Rows of the table of classes, the worst first: shares, and a picture of each kind of sample."""
    classes = sorted(found.classes if found else (), key=lambda row: row.samples.share)[:_CLASSES_SHOWN]

    def picture(asked: str, recognised: str) -> str | None:
        image = examples.get((asked, recognised))
        return None if image is None else tensor_uri(image)

    return [
        {
            "name": row.name,
            "samples": format_share(row.samples),
            "width": 100 * row.samples.share,
            "held_out": format_share(row.held_out),
            "own": picture(row.name, row.name),
            "mistakes": [
                (each.name, each.n / row.samples.n, picture(row.name, each.name)) for each in row.mistaken_for
            ],
        }
        for row in classes
    ]


def _bars(classes: Sequence[ClassScore]) -> list[tuple[str, str, float]]:
    """(class, its distance in words, the length of its bar in %), the worst first."""
    distances = sorted((row.distance for row in classes), reverse=True)
    rows = zip(class_rows(classes), distances, strict=True)
    return [(name, value, 100 * distance / (distances[0] or 1.0)) for (name, value), distance in rows]
