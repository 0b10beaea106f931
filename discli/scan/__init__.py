"""The bidirectional selective scan: one function, several backends."""

from discli.scan.dispatch import (
    Choice,
    assume_backend,
    bidirectional_scan,
    bidirectional_scan_of_halves,
    choose_backend,
    planned_backend,
)
from discli.scan.reference import DirectionParams

__all__ = [
    "Choice",
    "DirectionParams",
    "assume_backend",
    "bidirectional_scan",
    "bidirectional_scan_of_halves",
    "choose_backend",
    "planned_backend",
]
