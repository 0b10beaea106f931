"""Warm-up, a long time at the full rate, and a short way down."""

import math
from typing import Annotated, Literal

from pydantic import Field

from discli.recipe.kinds import LrScheduleSpec
from discli.recipe.spec import Fraction


class WarmupStableDecayLrSpec(LrScheduleSpec):
    """A linear warm-up, then lr, and down to 0 over the last steps (WSD, arXiv:2404.06395, arXiv:2405.18392).

    With f from 0 at the first of them to 1 behind the last: lr (1 - f), or lr (1 - sqrt(f)).
    """

    name: Literal["warmup-stable-decay"] = "warmup-stable-decay"
    decay: Annotated[Fraction, Field(description="share of train.steps over which lr falls")] = 0.2
    shape: Annotated[Literal["linear", "1-sqrt"], Field(description="of the fall")] = "linear"

    def after_warmup(self, base: float, step: int, total: int) -> float:
        falling = max(round(self.decay * total), 1)
        f = max((step - (total - falling)) / falling, 0.0)
        return base * (1 - (f if self.shape == "linear" else math.sqrt(f)))
