"""A score and its circumstances, for the terminal."""

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from discli.runtime.facts import fact_table
from discli.runtime.numbers import format_number

Result = dict[str, Any]

_CLASSES_SHOWN = 20
_UNFOLDED = 400  # columns


def print_scores(result: Result, console: Console | None = None) -> None:
    """Two tables on stdout, scores and circumstances; warnings after them."""
    # In a file or a pipe there is no edge to fold long hashes at.
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    console.print(fact_table(score_rows(result), "bold"))
    console.print()
    console.print(fact_table(fact_rows(result)))
    if result["per_class"]:
        console.print()
        console.print(fact_table(class_rows(result["per_class"], _CLASSES_SHOWN)))
    for warning in result["warnings"]:
        console.print(Text.assemble(("Warning:", "yellow"), f" {warning}"))


def score_rows(result: Result) -> Iterator[tuple[str, str]]:
    """(name, value) of every score, the effect of n right after the distance it belongs to."""
    scores = dict(result["scores"])
    for name, value in scores.items():
        if name.endswith(" std"):
            continue
        spread = f" ± {scores[f'{name} std']:.2g}" if f"{name} std" in scores else ""
        yield name, f"{format_number(value, 5)}{spread}"
        effect = result["effect_of_n"]
        if effect is not None and value == result["distance"]:
            yield (
                f"  {effect['level']:.0%} interval at n = {effect['n']:,}",
                f"{format_number(effect['low'], 5)} to {format_number(effect['high'], 5)}",
            )
            yield "  extrapolated to infinite n", format_number(effect["infinity"], 5)


def fact_rows(result: Result) -> Iterator[tuple[str, str]]:
    """(name, value) of everything the scores depend on."""
    samples, reference = result["samples"], result["reference"]
    yield "samples", f"{samples['path']} ({samples['kind']}, n = {samples['n']:,}, {_size(samples['resolution'])})"
    if "sampler" in samples:
        sampler = samples["sampler"]
        settings = "".join(f", {key} {value}" for key, value in sampler.items() if key != "name")
        yield (
            "sampling",
            f"{sampler['name']}{settings}, {samples['steps']} steps, NFE {samples['nfe']},"
            f" guidance {samples['cfg_scale']}, EMA {describe_ema(samples['ema'])},"
            f" {samples['precision']}, seed {samples['seed']}",
        )
        yield "checkpoint", f"{samples['checkpoint']} (step {samples['step']:,})"
    else:
        yield "sampling", "unknown: no manifest of discli sample beside these images"
    count = "n unknown" if reference["n"] is None else f"n = {reference['n']:,}"
    size = f", {_size(reference['resolution'])}" if reference["resolution"] else ""
    yield "reference", f"{reference['path']} ({reference['kind']}, {count}{size})"
    if reference["sha256"]:
        yield "reference sha256", reference["sha256"]
    words = {"name": "convention", "inception_score": "Inception Score"}
    for name, value in (result["convention"] or {}).items():
        yield words.get(name, name), value
    yield "features", f"{result['features']}: {result['network']}"
    yield "weights sha256", result["weights_sha256"]


def class_rows(classes: list[dict[str, Any]], most: int | None = None) -> Iterator[tuple[str, str]]:
    """Each class's distance, the worst first."""
    worst_first = sorted(classes, key=lambda row: -row["distance"])
    for row in worst_first[:most]:
        yield row["class"], f"{format_number(row['distance'])} ({row['n']:,} samples, {row['n_reference']:,} reference)"
    if most is not None and len(classes) > most:
        yield "...", f"{len(classes) - most:,} more: --json or --card has them all"


def describe_ema(ema: dict[str, Any]) -> str:
    """The averaging length, in a few words."""
    return ", ".join(f"{key} {value}" for key, value in ema.items() if key in ("decay", "stds")) or str(ema["name"])


def _size(resolution: list[int]) -> str:
    return f"{resolution[0]}x{resolution[1]} px"
