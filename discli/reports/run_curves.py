"""The curves of a training run, each as small as a phone needs it."""

import math
from collections.abc import Mapping

from discli.reports.plots import SMALL, Line, as_svg, curves
from discli.runs.logs import Lines, finite_numbers

Series = list[tuple[int, float]]  # (step, value)

_MOST_POINTS = 300  # more than that would be closer than pixels, and make the page large
_WORTH_A_LOG_AXIS = 8.0  # largest to smallest value
_QUARTERS = ("least noise", "second", "third", "most noise")


def run_curves(metrics: Lines, speed: Lines, scores: Mapping[str, Series]) -> list[tuple[str, str]]:
    """(caption, SVG) of everything that has a curve. ``scores``: by name."""
    quarters = {name: finite_numbers(metrics, f"loss_q{i}") for i, name in enumerate(_QUARTERS, start=1)}
    further = sorted({key for line in metrics for key in line if key.endswith("_loss")})
    wanted = [
        ("Loss", {"loss": finite_numbers(metrics, "loss")}),
        ("Loss by quarter of the timesteps", quarters),
        *((f"Loss: {key.removesuffix('_loss')}", {"loss": finite_numbers(metrics, key)}) for key in further),
        ("Gradient norm, before clipping", {"norm": finite_numbers(metrics, "grad_norm")}),
        ("Learning rate", {"learning rate": finite_numbers(metrics, "lr")}),
        ("Images a second", {"images/s": finite_numbers(speed, "images_per_second")}),
        ("Waiting for data, % of the time", {"data wait": finite_numbers(speed, "data_wait", 100.0)}),
        *((name, {name: values}) for name, values in scores.items()),
    ]
    return [(_caption(name, lines), _draw(name, lines)) for name, lines in wanted if any(lines.values())]


def thinned(values: Series, most: int = _MOST_POINTS) -> Series:
    """Means of as many neighbours as leave at most ``most`` points, each at its last step."""
    together = -(-len(values) // most)
    groups = [values[start : start + together] for start in range(0, len(values), together or 1)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def _draw(name: str, lines: Mapping[str, Series]) -> str:
    shown = {label: thinned(values) for label, values in lines.items() if values}
    every = [value for values in shown.values() for _, value in values]
    log_y = name.startswith(("Loss", "Gradient")) and min(every) > 0 and max(every) > _WORTH_A_LOG_AXIS * min(every)
    drawn = [Line(label, [s for s, _ in values], [v for _, v in values]) for label, values in shown.items()]
    return as_svg(curves(drawn, "step", "", log_y, SMALL, from_zero=name.startswith("Images")), name)


def _caption(name: str, lines: Mapping[str, Series]) -> str:
    together = -(-max(map(len, lines.values())) // _MOST_POINTS)
    return f"{name} (means of {together} log lines)" if together > 1 else name
