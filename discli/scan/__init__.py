"""The bidirectional selective scan: one function, several backends."""

from discli.scan.dispatch import Choice, bidirectional_scan, choose_backend
from discli.scan.reference import DirectionParams

__all__ = ["Choice", "DirectionParams", "bidirectional_scan", "choose_backend"]
