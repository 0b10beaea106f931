"""A training run on one page: where it stands, its curves, its images, and all that it depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from discli.reports.page import columns, embed, facts, page
from discli.reports.run_curves import Series, run_curves
from discli.reports.score_table import fact_rows, score_rows
from discli.runs.eval_result import EvalResult
from discli.runs.logs import Lines

_SHOTS = 8
_NEWEST_SIDE, _EARLIER_SIDE = 1024, 448  # px: twice what a screen of usual density shows
_JPEG, _QUALITY = 256, 80  # any px a tile above `embed`'s limit for PNG
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
    previews: Sequence[Path]  # <step>.png
    score_results: Sequence[tuple[str, EvalResult]]  # (file, result of eval-fid)
    recipe: Sequence[Sequence[tuple[str, bool]]]  # a table each: (line, whether somebody chose it)
    environment: Sequence[tuple[str, str]]
    events: Lines
    sessions: Sequence[Sequence[str]]
    footer: str


def run_page(run: RunFacts) -> str:
    """The page as text: one file that needs no other."""
    parts = [
        f'<h1>{escape(run.name)} <span class="state {run.tone}">{escape(run.state)}</span></h1>',
        f'<div class="tiles">{"".join(map(_tile, run.headline))}</div>',
        *(f'<p class="warning">{escape(problem)}</p>' for problem in run.problems),
        *_curves(run),
        *_shots(run.previews),
    ]
    for file, result in run.score_results:
        parts += _score(file, result)
    if run.recipe:
        parts += ["<h2>Recipe</h2>", _recipe(run.recipe)]
    parts += ["<h2>Environment</h2>", facts(run.environment)]
    if run.sessions:
        parts += ["<h2>Sessions</h2>", columns(("started (UTC)", "from step", "device", "processes"), run.sessions)]
    parts += ["<h2>Events</h2>", _events(run.events)]
    parts.append(f"<footer>{escape(run.footer)}</footer>")
    return page(f"{run.name}: training run", parts)


def choose_previews(previews: Sequence[Path], most: int = _SHOTS) -> list[Path]:
    """The first, the last, and evenly between them, by their steps; ``previews`` in order."""
    if len(previews) <= most:
        return list(previews)
    first, last = int(previews[0].stem), int(previews[-1].stem)
    wanted = [first + (last - first) * place / (most - 1) for place in range(most)]
    nearest = {min(previews, key=lambda path: abs(int(path.stem) - step)) for step in wanted}
    return sorted(nearest, key=lambda path: int(path.stem))


def _tile(fact: tuple[str, str]) -> str:
    name, value = fact
    return f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>"


def _curves(run: RunFacts) -> list[str]:
    drawn = run_curves(run.metrics, run.speed, run.scores)
    if not drawn:
        return ["<h2>Curves</h2>", "<p>Nothing is logged yet.</p>"]
    figures = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in drawn)
    return ["<h2>Curves</h2>", f'<div class="plots">{figures}</div>']


def _shots(previews: Sequence[Path]) -> list[str]:
    """Samples of the same noise and classes over time, the newest large."""
    shots: list[str] = []
    for path in reversed(choose_previews(previews)):
        side = _EARLIER_SIDE if shots else _NEWEST_SIDE
        image = _image(path, side)
        if image is not None:
            caption = f"step {int(path.stem):,}"
            shown = embed(image, f"samples, {caption}", _JPEG, _QUALITY)
            shots.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    if not shots:
        return []
    newest, *earlier = shots
    return [
        "<h2>Samples over time</h2>",
        f'<div class="samples"><div class="shots newest">{newest}</div>'
        f'<div class="shots">{"".join(reversed(earlier))}</div></div>',
    ]


def _image(path: Path, side: int) -> Image.Image | None:
    """At most ``side`` px large; None for what cannot be read."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except Exception:  # Pillow's plugins raise what their parsers stumble over: SyntaxError, struct.error, ...
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _score(file: str, result: EvalResult) -> list[str]:
    return [
        f"<h2>Scored: {escape(file)}</h2>",
        facts(score_rows(result), "scores"),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in result.warnings),
        facts(fact_rows(result)),
    ]


def _recipe(tables: Sequence[Sequence[tuple[str, bool]]]) -> str:
    texts = []
    for lines in tables:
        marked = [f"<b>{escape(line)}</b>" if chosen else f"{escape(line)}\n" for line, chosen in lines]
        texts.append(f"<pre>{''.join(marked)}</pre>")
    return f'<p>Marked: chosen, where discli has another default or none.</p><div class="recipe">{"".join(texts)}</div>'


def _events(events: Lines) -> str:
    if not events:
        return "<p>None: no step was skipped, and nothing was rolled back.</p>"
    rows = [(f"{event['step']:,}", str(event.get("event", "?")), _details(event)) for event in events[-_MOST_EVENTS:]]
    left_out = len(events) - len(rows)
    before = f"<p>The last {len(rows)} of {len(events):,}; events.jsonl has all.</p>" if left_out else ""
    return before + columns(("step", "event", "details"), rows)


def _details(event: Mapping[str, Any]) -> str:
    found = []
    if "grad_norm" in event:
        found.append(f"gradient norm {event['grad_norm']}")
    if isinstance(event.get("indices"), list):
        found.append(f"{len(event['indices']):,} samples")
    if isinstance(event.get("settings"), dict):
        found += [f"{key}: {' to '.join(map(str, values))}" for key, values in event["settings"].items()]
    return ", ".join(found)
