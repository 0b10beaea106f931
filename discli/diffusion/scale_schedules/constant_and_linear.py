"""The same scale at every step, and the simplest rise towards it."""

from typing import Literal

from discli.recipe.kinds import ScaleScheduleSpec


class ConstantScaleSpec(ScaleScheduleSpec):
    """``cfg_scale`` throughout."""

    name: Literal["constant"] = "constant"

    def share(self, progress: float) -> float:
        return 1.0


class LinearScaleSpec(ScaleScheduleSpec):
    """From 1 in pure noise to ``cfg_scale`` at the end (arXiv:2404.13040)."""

    name: Literal["linear"] = "linear"

    def share(self, progress: float) -> float:
        return progress
