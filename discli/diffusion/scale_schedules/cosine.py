"""A scale that rises late, and then steeply."""

import math
from typing import Annotated, Literal

from pydantic import Field

from discli.recipe.kinds import ScaleScheduleSpec
from discli.recipe.spec import Positive


class CosineScaleSpec(ScaleScheduleSpec):
    """From 1 to ``cfg_scale`` along half a cosine of progress ** ``power`` (MDT, arXiv:2303.14389)."""

    name: Literal["cosine"] = "cosine"
    power: Annotated[Positive, Field(description="higher: guidance sets in later")] = 4.0

    def share(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress**self.power)) / 2
