"""``[train]``: optimisation, averaging, and what a run writes down."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from discli.recipe.spec import Count, Flag, Fraction, Positive, PositiveInt, Spec, by_name

Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]
Rate = Annotated[float, Strict(), Field(ge=0)]


class ConstantLr(Spec):
    """A linear warm-up, then lr."""

    name: Literal["constant"] = "constant"
    warmup_steps: Count = 0


class CosineLr(Spec):
    """A linear warm-up, then half a cosine down to ``min_lr`` at the last step: the authors' choice."""

    name: Literal["cosine"] = "cosine"
    warmup_steps: Count = 0
    min_lr: Rate = 1e-6


class InverseSqrtLr(Spec):
    """A linear warm-up, then lr / sqrt(max(step / decay_after, 1)) (EDM2, arXiv:2312.02696, eq. 67)."""

    name: Literal["inverse-sqrt"] = "inverse-sqrt"
    warmup_steps: Count = 0
    decay_after: PositiveInt = 70_000


LrSchedule = Annotated[ConstantLr | CosineLr | InverseSqrtLr, *by_name("constant")]


# Of a power function's averaging profile, relative to the steps so far: the flat one's.
WIDEST_STD = 12**-0.5


class ConstantEma(Spec):
    """decay * ema + (1 - decay) * weights, every step."""

    name: Literal["constant"] = "constant"
    decay: Decay = 0.9999


class PowerEma(Spec):
    """EDM2's power-function average (arXiv:2312.02696, section 3); any length can be rebuilt later.

    ``stds`` are relative widths of the averaging profile. The first is the one that previews and
    samples use; snapshots of all are kept every ``snapshot_every`` steps.
    """

    name: Literal["power"] = "power"
    stds: Annotated[tuple[float, ...], Field(min_length=1)] = (0.05, 0.10)
    snapshot_every: PositiveInt = 5_000

    @model_validator(mode="after")
    def _stds_in_range(self) -> Self:
        if not all(0 < std < WIDEST_STD for std in self.stds):
            raise ValueError("every one of stds must lie between 0 and 0.288")
        return self


Ema = Annotated[ConstantEma | PowerEma, *by_name("constant")]


class ScoreSpec(Spec):
    """A distance between samples of the averaged weights and the data, every so often while training."""

    every: Annotated[Count, Field(description="steps; 0: never")] = 0
    n: Annotated[PositiveInt, Field(ge=2, description="samples to score")] = 10_000
    features: Annotated[
        Literal["inception", "random"], Field(description="random needs no download, and is not FID")
    ] = "inception"
    sampling_steps: Annotated[PositiveInt | None, Field(description="default: the recipe's sample.steps")] = None
    reference: Annotated[
        Path | None, Field(description="STATS.npz of discli eval-fid --make-ref; default: the training data")
    ] = None


class TrainSpec(Spec):
    """The authors' settings by default. ``batch_size`` is global: all processes and micro-batches."""

    steps: PositiveInt
    batch_size: PositiveInt = 128
    micro_batch: Annotated[
        PositiveInt | None, Field(description="samples per process and backward pass; default: all at once")
    ] = None
    lr: Positive = 1e-4
    lr_schedule: LrSchedule = ConstantLr()
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Rate = 0.0
    grad_clip: Positive = 1.0
    class_dropout_prob: Fraction = 0.1
    ema: Ema = ConstantEma()
    seed: Count = 0

    precision: Annotated[Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 on CUDA, fp32 elsewhere")] = (
        "auto"
    )
    tf32: Flag = True
    compile: Flag = False
    activation_checkpointing: Flag = False
    parallel: Literal["ddp", "fsdp2"] = "ddp"

    log_every: PositiveInt = 50
    preview_every: Annotated[Count, Field(description="0: never")] = 5_000
    preview_count: Annotated[PositiveInt, Field(le=400)] = 36
    checkpoint_every: PositiveInt = 5_000
    keep_last: PositiveInt = 2
    keep_every: Annotated[PositiveInt | None, Field(description="also keep every checkpoint at a multiple of this")] = (
        None
    )
    skip_limit: Annotated[PositiveInt, Field(description="non-finite steps in a row before rolling back")] = 5
    score: ScoreSpec = ScoreSpec()
    peak_tflops: Annotated[
        Positive | None, Field(description="of one device, for model FLOP utilisation; default: known GPUs'")
    ] = None
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
