"""A training run on one page: where it stands, its curves, its images, and all that it depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from discli.reports.fit import Fit
from discli.reports.page import image_uri, render
from discli.reports.run_curves import Series, run_curves
from discli.reports.score_table import fact_rows, score_rows
from discli.runs.eval_result import EvalResult
from discli.runs.logs import Lines

_SHOTS = 8
_NEWEST_SIDE, _EARLIER_SIDE = 1024, 448  # px: twice what a screen of usual density shows
_JPEG, _QUALITY = 256, 80  # any side above `image_uri`'s limit for PNG
_MOST_EVENTS = 50


@dataclass(frozen=True)
class RunFacts:
    """What the page shows, as plain values. ``tone`` colours the ``state``."""

    name: str
    state: str
    tone: Literal["good", "busy", "bad"]
    headline: Sequence[tuple[str, str]]
    problems: Sequence[str]
    metrics: Lines
    speed: Lines
    scores: Mapping[str, Series]
    fit: Fit | None
    fit_plots: Sequence[tuple[str, str]]
    previews: Sequence[Path]  # <step>.png
    score_results: Sequence[tuple[str, EvalResult]]  # (file, result of eval-fid)
    recipe: Sequence[Sequence[tuple[str, bool]]]  # a table each: (line, whether somebody chose it)
    environment: Sequence[tuple[str, str]]
    events: Lines
    sessions: Sequence[Sequence[str]]
    footer: str


def run_page(run: RunFacts) -> str:
    """The page as text: one file that needs no other."""
    return render(
        "run.html",
        run=run,
        curves=run_curves(run.metrics, run.speed, run.scores),
        shots=_shots(run.previews),
        scores=[(file, result, score_rows(result), fact_rows(result)) for file, result in run.score_results],
        events=[
            (f"{event['step']:,}", str(event.get("event", "?")), _details(event))
            for event in run.events[-_MOST_EVENTS:]
        ],
    )


def choose_previews(previews: Sequence[Path], most: int = _SHOTS) -> list[Path]:
    """The first, the last, and evenly between them, by their steps; ``previews`` in order."""
    if len(previews) <= most:
        return list(previews)
    first, last = int(previews[0].stem), int(previews[-1].stem)
    wanted = [first + (last - first) * place / (most - 1) for place in range(most)]
    nearest = {min(previews, key=lambda path: abs(int(path.stem) - step)) for step in wanted}
    return sorted(nearest, key=lambda path: int(path.stem))


def _shots(previews: Sequence[Path]) -> list[tuple[str, int]]:
    """(URI, step) of samples of the same noise and classes over time; the newest is the largest."""
    shots: list[tuple[str, int]] = []
    for path in reversed(choose_previews(previews)):
        image = _image(path, _EARLIER_SIDE if shots else _NEWEST_SIDE)
        if image is not None:
            shots.append((image_uri(image, _JPEG, _QUALITY), int(path.stem)))
    return shots[::-1]


def _image(path: Path, side: int) -> Image.Image | None:
    """At most ``side`` px large; None for what cannot be read."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except Exception:  # Pillow's plugins raise what their parsers stumble over: SyntaxError, struct.error, ...
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _details(event: Mapping[str, Any]) -> str:
    found = []
    if "grad_norm" in event:
        found.append(f"gradient norm {event['grad_norm']}")
    if isinstance(event.get("indices"), list):
        found.append(f"{len(event['indices']):,} samples")
    if isinstance(event.get("settings"), dict):
        found += [f"{key}: {' to '.join(map(str, values))}" for key, values in event["settings"].items()]
    return ", ".join(found)
