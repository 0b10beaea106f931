"""Half a cosine."""

import math
from typing import Annotated, Literal

from pydantic import Field

from discli.recipe.kinds import LrScheduleSpec
from discli.recipe.spec import NotNegative


class CosineLrSpec(LrScheduleSpec):
    """A linear warm-up, then half a cosine down to ``min_lr`` at the last step: the authors' choice."""

    name: Literal["cosine"] = "cosine"
    min_lr: Annotated[NotNegative, Field(description="at the last step")] = 1e-6

    def after_warmup(self, base: float, step: int, total: int) -> float:
        span = max(total - 1 - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / span, 1.0)
        return self.min_lr + (base - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
