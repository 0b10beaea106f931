"""EDM2's."""

import math
from typing import Annotated, Literal

from pydantic import Field

from discli.recipe.kinds import LrScheduleSpec
from discli.recipe.spec import PositiveInt


class InverseSqrtLrSpec(LrScheduleSpec):
    """A linear warm-up, then lr / sqrt(max(step / decay_after, 1)) (EDM2, arXiv:2312.02696, eq. 67)."""

    name: Literal["inverse-sqrt"] = "inverse-sqrt"
    decay_after: Annotated[PositiveInt, Field(description="steps at the full lr")] = 70_000

    def after_warmup(self, base: float, step: int, total: int) -> float:
        return base / math.sqrt(max(step / self.decay_after, 1.0))
