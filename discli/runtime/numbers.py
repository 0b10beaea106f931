"""Numbers as people read them: one rule for images, bytes, operations, rates and scores."""

import math
from collections.abc import Sequence


def format_number(value: float, digits: int = 4) -> str:
    """At least ``digits`` digits, thousands with commas, no exponent below 1e15: 0.0312, 15.8, 15,824, 12,345,678.

    What is whole is not rounded; of what is not, ``digits`` are shown, and all of those before the point.
    """
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 1e15:
        return f"{value:.{digits}g}".replace("e+", "e")
    return f"{value:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:,.{digits}g}"


def format_scaled(value: float, units: Sequence[str], digits: int = 3) -> str:
    """In the first of ``units`` that leaves less than a thousand; each is a thousand of the one before."""
    last = len(units) - 1
    for place, unit in enumerate(units):
        if place == last or abs(float(f"{value:.{digits}g}")) < 1000:
            return f"{format_number(value, digits)} {unit}"
        value /= 1000
    raise ValueError("no units")
