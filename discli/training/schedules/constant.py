"""The same rate throughout."""

from typing import Literal

from discli.recipe.kinds import LrScheduleSpec


class ConstantLrSpec(LrScheduleSpec):
    """A linear warm-up, then lr."""

    name: Literal["constant"] = "constant"

    def after_warmup(self, base: float, step: int, total: int) -> float:
        return base
