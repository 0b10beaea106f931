"""``[sample]`` and ``[eval]``: how images are made and scored."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.kinds import SamplerSpec, ScaleScheduleSpec, TimestepSpacing
from discli.recipe.spec import FeatureName, Flag, OrNone, Positive, PositiveInt, Spec, by_name

SAMPLERS = read_choices("diffusion/samplers", SamplerSpec, default="ddpm")
SCALE_SCHEDULES = read_choices("diffusion/scale_schedules", ScaleScheduleSpec, default="constant")

if TYPE_CHECKING:
    Sampler = SamplerSpec
    ScaleSchedule = ScaleScheduleSpec
else:
    Sampler = one_of(SAMPLERS)
    ScaleSchedule = one_of(SCALE_SCHEDULES)


class ClassifierFree(Spec):
    """Away from the prediction without a class (arXiv:2207.12598)."""

    name: Literal["classifier-free"] = "classifier-free"


class Autoguidance(Spec):
    """Away from what a weaker model predicts of the same class (arXiv:2406.02507): a run or a checkpoint of it."""

    name: Literal["autoguidance"] = "autoguidance"
    checkpoint: Annotated[str, Field(description="folder of the weaker run or checkpoint")]


Guidance = Annotated[ClassifierFree | Autoguidance, *by_name("classifier-free")]


class GuidanceInterval(Spec):
    """Guide only where ``low`` < noise level <= ``high`` (arXiv:2404.07724); the level is sigma = s / a."""

    low: Annotated[float, Strict(), Field(ge=0, description="no guidance at or below this noise level")] = 0.0
    high: Annotated[Positive, Field(description="no guidance above this noise level")]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class SampleSpec(Spec):
    """Sampling defaults of a recipe; flags of ``discli sample`` win over them."""

    sampler: Annotated[Sampler, Field(description="how noise becomes an image")] = default_of(SAMPLERS)
    steps: Annotated[PositiveInt, Field(le=10**6, description="sampling steps")] = 250
    timestep_spacing: Annotated[
        TimestepSpacing,
        Field(description="which timesteps: evenly from last to first, diffusers' two, or OpenAI's ddimN"),
    ] = "linspace"
    time_shift: Annotated[
        Positive | None, Field(description="of flow's steps; default: as diffusion.time_shift in training")
    ] = None
    cfg_scale: Annotated[float, Strict(), Field(ge=0, description="guidance; 1: none")] = 1.0
    guidance: Annotated[Guidance, Field(description="what to guide away from")] = ClassifierFree()
    cfg_schedule: Annotated[ScaleSchedule, Field(description="the scale over the steps")] = default_of(SCALE_SCHEDULES)
    cfg_interval: Annotated[
        GuidanceInterval | None,
        OrNone(),
        Field(description="guide only between these noise levels; default: everywhere"),
    ] = None
    contrastive_correction: Annotated[
        Flag, Field(description="undo under guidance what diffusion.contrastive adds, as its paper does")
    ] = True
    guided_channels: Annotated[
        Literal["all", "first-three"],
        Field(description='"first-three": as the authors\' code guides, for exact comparison'),
    ] = "all"
    clip_denoised: Annotated[Flag, Field(description="clamp the predicted x0 to [-1, 1]; for pixels")] = False
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 where the device is quicker in it, else fp32")
    ] = "auto"
    compile: Annotated[Flag, Field(description="torch.compile; CUDA graphs")] = False
    model_batch: Annotated[
        PositiveInt | Literal["auto"],
        Field(description="images per model call, the same for all, so that image i never depends on -n"),
    ] = "auto"


def spaced_timesteps(spacing: TimestepSpacing, num_timesteps: int, steps: int) -> list[int]:
    """``steps`` of the timesteps 0 .. num_timesteps - 1, falling; diffusers' own times of that name, and OpenAI's.

    linspace: from the last timestep to 0, evenly, as the DiS authors'. leading: 0, r, 2 r, ..., r = T // steps.
    trailing: T - 1, T - 1 - T / steps, ... (arXiv:2305.08891, table 2). ddim: multiples of the least stride of which
    there are exactly ``steps`` (arXiv:2102.09672's code, space_timesteps("ddimN")).

    Raises ValueError where no stride gives as many, and for more steps than timesteps.
    """
    if steps > num_timesteps:
        raise ValueError(f"{steps} steps of {num_timesteps} timesteps")
    if spacing == "leading":
        return [k * (num_timesteps // steps) for k in reversed(range(steps))]
    if spacing == "trailing":
        stride = (num_timesteps - num_timesteps / steps) - num_timesteps  # to the last bit as numpy.arange has it
        return [round(num_timesteps + k * stride) - 1 for k in range(steps)]
    if spacing == "ddim":
        whole = next((s for s in range(1, num_timesteps) if -(-num_timesteps // s) == steps), None)
        if whole is None:
            possible = sorted({-(-num_timesteps // s) for s in range(1, num_timesteps)})
            near = sorted(sorted(possible, key=lambda n: abs(n - steps))[:2])
            raise ValueError(
                f"no stride takes {steps} of {num_timesteps} timesteps: use {' or '.join(map(str, near))} steps"
            )
        return list(range(0, num_timesteps, whole))[::-1]
    last = num_timesteps - 1
    # A single step starts where all noise is.
    return [round(k * last / (steps - 1)) for k in reversed(range(steps))] if steps > 1 else [last]


class EvalSpec(Spec):
    """Scoring defaults of a recipe."""

    n: Annotated[PositiveInt, Field(description="samples to score")] = 50_000
    features: FeatureName = "inception"
