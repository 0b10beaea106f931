"""``[diffusion]``: the noise process and what the network learns of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, Strict, model_validator

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.kinds import ObjectiveSpec, Process, SamplerSpec, WeightingSpec
from discli.recipe.spec import ChoiceSpec, Positive, Spec

OBJECTIVES = read_choices("diffusion/objectives", ObjectiveSpec, default="eps")
WEIGHTINGS = read_choices("diffusion/weightings", WeightingSpec, default="uniform")
TIMESTEPS = read_choices("diffusion/timesteps", ChoiceSpec, default="uniform")

if TYPE_CHECKING:
    Objective = ObjectiveSpec
    Weighting = WeightingSpec
    Timesteps = ChoiceSpec
else:
    Objective = one_of(OBJECTIVES)
    Weighting = one_of(WEIGHTINGS)
    Timesteps = one_of(TIMESTEPS)


class DiffusionSpec(Spec):
    """A linear schedule of betas (DDPM, arXiv:2006.11239), or a straight path for ``flow`` and ``x0-flow``."""

    objective: Annotated[Objective, Field(description="what the network predicts")] = default_of(OBJECTIVES)
    weighting: Annotated[Weighting, Field(description="how much each timestep counts")] = default_of(WEIGHTINGS)
    timesteps: Annotated[Timesteps, Field(description="how often each timestep is drawn")] = default_of(TIMESTEPS)
    time_shift: Annotated[
        Positive,
        Field(description="of flow, s / a times this in training and sampling: sqrt(m / n) for m pixels, n usual ones"),
    ] = 1.0
    contrastive: Annotated[
        float,
        Strict(),
        Field(ge=0, lt=1, description="of flow: weight of the loss's term against other samples' velocities"),
    ] = 0.0
    num_timesteps: Annotated[int, Strict(), Field(ge=2, le=10**6, description="length of the schedule of betas")] = 1000
    beta_start: Annotated[float, Strict(), Field(gt=0, lt=1, description="of the first timestep")] = 1e-4
    beta_end: Annotated[float, Strict(), Field(gt=0, lt=1, description="of the last timestep")] = 0.02

    @property
    def learn_sigma(self) -> bool:
        return self.objective.learns_variance()

    @model_validator(mode="after")
    def _shift_fits(self) -> Self:
        if self.time_shift != 1.0 and self.objective.process != "flow":
            raise ValueError(
                f"time_shift {self.time_shift:g} shifts the times of the straight path, which"
                f' "{self.objective.name}" has not: use 1.0'
            )
        return self

    @model_validator(mode="after")
    def _contrast_fits(self) -> Self:
        if self.contrastive and self.objective.process != "flow":
            raise ValueError(
                f"contrastive {self.contrastive:g} compares velocities of the straight path, which"
                f' "{self.objective.name}" has not: use 0.0'
            )
        return self

    @model_validator(mode="after")
    def _weighting_fits(self) -> Self:
        process = self.objective.process
        if process not in self.weighting.fits:
            raise ValueError(
                f'weighting "{self.weighting.name}" does not fit the objective "{self.objective.name}":'
                f" use {names_that_fit(WEIGHTINGS, process)}"
            )
        return self


def names_that_fit(choices: Mapping[str, type[SamplerSpec | WeightingSpec]], process: Process) -> str:
    """Those of ``choices`` that can follow a noise process, for an error: ``"euler", "heun"``."""
    return ", ".join(f'"{name}"' for name, spec in choices.items() if process in spec.fits)
