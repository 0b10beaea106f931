"""``[diffusion]``: the noise process and what the network learns of it."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from discli.recipe.spec import Flag, Positive, Real, Spec, by_name


class EpsObjective(Spec):
    """Predict the noise; ``learn_sigma`` adds the learned variance of arXiv:2102.09672."""

    name: Literal["eps"] = "eps"
    learn_sigma: Annotated[Flag, Field(description="learn the variance too")] = True


class VObjective(Spec):
    """Predict v = sqrt(abar) eps - sqrt(1 - abar) x0 (arXiv:2202.00512)."""

    name: Literal["v"] = "v"


class X0Objective(Spec):
    """Predict the clean sample."""

    name: Literal["x0"] = "x0"


class FlowObjective(Spec):
    """Predict the velocity eps - x0 of the linear interpolant (SiT, arXiv:2401.08740)."""

    name: Literal["flow"] = "flow"


Objective = Annotated[EpsObjective | VObjective | X0Objective | FlowObjective, *by_name("eps")]


class UniformWeighting(Spec):
    """Every timestep's squared error counts the same."""

    name: Literal["uniform"] = "uniform"


class MinSnrWeighting(Spec):
    """min(SNR, gamma) in x0 terms (arXiv:2303.09556)."""

    name: Literal["min-snr"] = "min-snr"
    gamma: Annotated[Positive, Field(description="the most that the signal-to-noise ratio counts")] = 5.0


Weighting = Annotated[UniformWeighting | MinSnrWeighting, *by_name("uniform")]


class UniformTimesteps(Spec):
    """Every timestep is equally likely."""

    name: Literal["uniform"] = "uniform"


class LogitNormalTimesteps(Spec):
    """t = sigmoid(mean + std * normal) (arXiv:2403.03206, section 3.1)."""

    name: Literal["logit-normal"] = "logit-normal"
    mean: Annotated[Real, Field(description="of the normal; above 0: more noise")] = 0.0
    std: Annotated[Positive, Field(description="of the normal")] = 1.0


Timesteps = Annotated[UniformTimesteps | LogitNormalTimesteps, *by_name("uniform")]


class DiffusionSpec(Spec):
    """A linear schedule of betas (DDPM, arXiv:2006.11239), or a straight path for ``flow``."""

    objective: Annotated[Objective, Field(description="what the network predicts")] = EpsObjective()
    weighting: Annotated[Weighting, Field(description="how much each timestep counts")] = UniformWeighting()
    timesteps: Annotated[Timesteps, Field(description="how often each timestep is drawn")] = UniformTimesteps()
    num_timesteps: Annotated[int, Strict(), Field(ge=2, le=10**6, description="length of the schedule of betas")] = 1000
    beta_start: Annotated[float, Strict(), Field(gt=0, lt=1, description="of the first timestep")] = 1e-4
    beta_end: Annotated[float, Strict(), Field(gt=0, lt=1, description="of the last timestep")] = 0.02

    @property
    def learn_sigma(self) -> bool:
        return isinstance(self.objective, EpsObjective) and self.objective.learn_sigma

    @model_validator(mode="after")
    def _weighting_fits(self) -> Self:
        if self.objective.name == "flow" and self.weighting.name == "min-snr":
            raise ValueError('weighting "min-snr" is defined for eps, v and x0, not for flow')
        return self
