"""``[sample]`` and ``[eval]``: how pictures are made and scored."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from discli.recipe.spec import Flag, Fraction, PositiveInt, Spec, by_name


class DdpmSampler(Spec):
    """Ancestral sampling with the learned variance, as the authors sample (arXiv:2102.09672)."""

    name: Literal["ddpm"] = "ddpm"


class DdimSampler(Spec):
    """DDIM (arXiv:2010.02502); ``eta`` 0 is deterministic, 1 adds the ancestral amount of noise."""

    name: Literal["ddim"] = "ddim"
    eta: Fraction = 0.0


class EulerFlowSampler(Spec):
    """Euler steps along the learned velocity, for models trained with the flow objective."""

    name: Literal["euler"] = "euler"


Sampler = Annotated[DdpmSampler | DdimSampler | EulerFlowSampler, *by_name("ddpm")]


class SampleSpec(Spec):
    """Sampling defaults of a recipe; flags of ``discli sample`` win over them."""

    sampler: Sampler = DdpmSampler()
    steps: PositiveInt = 250
    cfg_scale: Annotated[float, Strict(), Field(ge=0, description="1: no guidance")] = 1.0
    guided_channels: Annotated[
        Literal["all", "first-three"],
        Field(description='"first-three": as the authors\' code guides, for exact comparison'),
    ] = "all"
    clip_denoised: Annotated[Flag, Field(description="clamp the predicted x0 to [-1, 1]; for pixels")] = False
    model_batch: Annotated[
        PositiveInt, Field(description="images per model call; fixed, so that image i never depends on -n")
    ] = 16


class EvalSpec(Spec):
    """Scoring defaults of a recipe."""

    n: PositiveInt = 50_000
    features: Literal["inception", "random"] = "inception"
