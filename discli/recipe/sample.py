"""``[sample]`` and ``[eval]``: how images are made and scored."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, Strict, model_validator

from discli.recipe.spec import FeatureName, Flag, Fraction, Positive, PositiveInt, Spec, by_name


class _SamplerSpec(Spec):
    """``fits`` says which noise processes a sampler can follow: the betas of eps, v and x0, or flow's straight path."""

    fits: ClassVar[tuple[str, ...]] = ("betas",)


class DdpmSampler(_SamplerSpec):
    """Ancestral sampling with the learned variance, as the authors sample (arXiv:2102.09672)."""

    name: Literal["ddpm"] = "ddpm"


class DdimSampler(_SamplerSpec):
    """DDIM (arXiv:2010.02502); ``eta`` 0 is deterministic, 1 adds the ancestral amount of noise."""

    name: Literal["ddim"] = "ddim"
    eta: Annotated[Fraction, Field(description="0: no noise; 1: as much as DDPM")] = 0.0


class DpmSolverSampler(_SamplerSpec):
    """DPM-Solver++ 2M along the probability-flow ODE (arXiv:2211.01095, algorithm 2)."""

    name: Literal["dpm-solver++"] = "dpm-solver++"


class SdeDpmSolverSampler(_SamplerSpec):
    """DPM-Solver++ 2M along the reverse SDE (arXiv:2211.01095, appendix B)."""

    name: Literal["sde-dpm-solver++"] = "sde-dpm-solver++"


class UniPcSampler(_SamplerSpec):
    """UniPC of order two, predictor and corrector, B2(h) (arXiv:2302.04867)."""

    name: Literal["unipc"] = "unipc"


class EulerSampler(_SamplerSpec):
    """Euler steps along the probability-flow ODE; for eps, v and x0 models that is DDIM with eta 0."""

    name: Literal["euler"] = "euler"
    fits: ClassVar[tuple[str, ...]] = ("betas", "flow")


class HeunSampler(_SamplerSpec):
    """Heun's second-order steps (arXiv:2206.00364, algorithm 1): two calls a step, one in the last."""

    name: Literal["heun"] = "heun"
    fits: ClassVar[tuple[str, ...]] = ("betas", "flow")


class EulerMaruyamaSampler(_SamplerSpec):
    """The reverse SDE of flow models; ``noise_scale`` 1 diffuses as SiT does (arXiv:2401.08740), 0 is Euler."""

    name: Literal["euler-maruyama"] = "euler-maruyama"
    noise_scale: Annotated[float, Strict(), Field(ge=0, description="0: no noise; 1: as SiT")] = 1.0
    fits: ClassVar[tuple[str, ...]] = ("flow",)


SAMPLERS: tuple[type[_SamplerSpec], ...] = (
    DdpmSampler,
    DdimSampler,
    DpmSolverSampler,
    SdeDpmSolverSampler,
    UniPcSampler,
    EulerSampler,
    HeunSampler,
    EulerMaruyamaSampler,
)

Sampler = Annotated[
    DdpmSampler
    | DdimSampler
    | DpmSolverSampler
    | SdeDpmSolverSampler
    | UniPcSampler
    | EulerSampler
    | HeunSampler
    | EulerMaruyamaSampler,
    *by_name("ddpm"),
]


class ClassifierFree(Spec):
    """Away from the prediction without a class (arXiv:2207.12598)."""

    name: Literal["classifier-free"] = "classifier-free"


class Autoguidance(Spec):
    """Away from what a weaker model predicts of the same class (arXiv:2406.02507): a run or a checkpoint of it."""

    name: Literal["autoguidance"] = "autoguidance"
    checkpoint: Annotated[str, Field(description="folder of the weaker run or checkpoint")]


Guidance = Annotated[ClassifierFree | Autoguidance, *by_name("classifier-free")]


class ConstantScale(Spec):
    """``cfg_scale`` throughout."""

    name: Literal["constant"] = "constant"


class LinearScale(Spec):
    """From 1 in pure noise to ``cfg_scale`` at the end (arXiv:2404.13040)."""

    name: Literal["linear"] = "linear"


class CosineScale(Spec):
    """From 1 to ``cfg_scale`` along half a cosine of progress ** ``power`` (MDT, arXiv:2303.14389)."""

    name: Literal["cosine"] = "cosine"
    power: Annotated[Positive, Field(description="higher: guidance sets in later")] = 4.0


ScaleSchedule = Annotated[ConstantScale | LinearScale | CosineScale, *by_name("constant")]


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

    sampler: Annotated[Sampler, Field(description="how noise becomes an image")] = DdpmSampler()
    steps: Annotated[PositiveInt, Field(le=10**6, description="sampling steps")] = 250
    cfg_scale: Annotated[float, Strict(), Field(ge=0, description="guidance; 1: none")] = 1.0
    guidance: Annotated[Guidance, Field(description="what to guide away from")] = ClassifierFree()
    cfg_schedule: Annotated[ScaleSchedule, Field(description="the scale over the steps")] = ConstantScale()
    cfg_interval: Annotated[
        GuidanceInterval | None, Field(description="guide only between these noise levels; default: everywhere")
    ] = None
    guided_channels: Annotated[
        Literal["all", "first-three"],
        Field(description='"first-three": as the authors\' code guides, for exact comparison'),
    ] = "all"
    clip_denoised: Annotated[Flag, Field(description="clamp the predicted x0 to [-1, 1]; for pixels")] = False
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 on GPUs that have it, else fp32")
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
