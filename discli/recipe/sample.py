"""``[sample]`` and ``[eval]``: how images are made and scored."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.kinds import SamplerSpec, ScaleScheduleSpec
from discli.recipe.spec import FeatureName, Flag, Positive, PositiveInt, Spec, by_name

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
    cfg_scale: Annotated[float, Strict(), Field(ge=0, description="guidance; 1: none")] = 1.0
    guidance: Annotated[Guidance, Field(description="what to guide away from")] = ClassifierFree()
    cfg_schedule: Annotated[ScaleSchedule, Field(description="the scale over the steps")] = default_of(SCALE_SCHEDULES)
    cfg_interval: Annotated[
        GuidanceInterval | None, Field(description="guide only between these noise levels; default: everywhere")
    ] = None
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


class EvalSpec(Spec):
    """Scoring defaults of a recipe."""

    n: Annotated[PositiveInt, Field(description="samples to score")] = 50_000
    features: FeatureName = "inception"
