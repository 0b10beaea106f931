"""``[train]``: optimisation, averaging, and what a run writes down."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, Strict, create_model, model_validator

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.kinds import AuxiliarySpec, LrScheduleSpec
from discli.recipe.seeds import Seeds, SeedsOrNumber
from discli.recipe.spec import (
    ChoiceSpec,
    Count,
    FeatureName,
    Flag,
    Fraction,
    NotNegative,
    OrNone,
    Positive,
    PositiveInt,
    Real,
    Spec,
    by_name,
)
from discli.runtime.errors import DiscliError

Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]

LR_SCHEDULES = read_choices("training/schedules", LrScheduleSpec, default="constant")
OPTIMIZERS = read_choices("training/optimizers", ChoiceSpec, default="adamw")

if TYPE_CHECKING:
    LrSchedule = LrScheduleSpec
    Optimizer = ChoiceSpec
else:
    LrSchedule = one_of(LR_SCHEDULES)
    Optimizer = one_of(OPTIMIZERS)

if TYPE_CHECKING:
    from discli.recipe.model import ModelSpec

# Of a power function's averaging profile, relative to the steps so far: the flat one's.
WIDEST_STD = 12**-0.5


class ConstantEma(Spec):
    """decay * ema + (1 - decay) * weights, every step."""

    name: Literal["constant"] = "constant"
    decay: Annotated[Decay, Field(description="what is kept of the average at each step")] = 0.9999


class PowerEma(Spec):
    """EDM2's power-function average (arXiv:2312.02696, section 3); any length can be rebuilt later.

    ``stds`` are relative widths of the averaging profile. The first is the one that previews and
    samples use; snapshots of all are kept every ``snapshot_every`` steps.
    """

    name: Literal["power"] = "power"
    stds: Annotated[
        tuple[Real, ...], Field(min_length=1, description="relative widths; previews and samples use the first")
    ] = (0.05, 0.10)
    snapshot_every: Annotated[PositiveInt, Field(description="steps")] = 5_000

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
    features: FeatureName = "inception"
    sampling_steps: Annotated[PositiveInt | None, Field(description="default: the recipe's sample.steps")] = None
    reference: Annotated[Path | None, Field(description="STATS.npz of discli make-ref; default: the training data")] = (
        None
    )


class RouteSpec(Spec):
    """While training, some patches skip the blocks in the middle (TREAD, arXiv:2501.04765).

    Another part of each image in every step. Scans keep their order, and long skips whole grids.
    """

    share: Annotated[Fraction, Field(lt=1, description="of an image's patches that skip them")] = 0.5
    outer: Annotated[
        PositiveInt, Field(description="blocks at the beginning, and as many at the end, that see all patches")
    ] = 2
    stop_at: Annotated[Fraction, Field(description="share of train.steps after which nothing is skipped")] = 1.0

    def kept(self, patches: int) -> int:
        """How many of ``patches`` stay."""
        return max(1, patches - round(self.share * patches))

    def blocks(self, depth: int) -> range:
        """Those that are skipped, counted from 1."""
        return range(self.outer + 1, depth - self.outer + 1)

    def check(self, model: "ModelSpec", auxiliary: "Mapping[str, AuxiliarySpec]") -> None:
        """Raises ValueError where the model, or a loss on what blocks put out, does not go with it."""
        blocks = self.blocks(model.depth)
        if not blocks:
            raise ValueError(
                f"train.route.outer {self.outer} leaves none of {model.depth} blocks to skip: use a smaller one"
            )
        for name, loss in auxiliary.items():
            for block in loss.looks_at(model):
                if block in blocks:
                    raise ValueError(
                        f"train.{name} looks at block {block}, where train.route leaves patches out"
                        f" (blocks {blocks[0]} to {blocks[-1]}): choose another block or train.route.outer"
                    )


AUXILIARY = read_choices("training/auxiliary", AuxiliarySpec, default="align")

if TYPE_CHECKING:
    _Losses = Spec
else:  # a table each
    _Losses = create_model(
        "_Losses",
        __base__=Spec,
        **{
            name: (
                Annotated[spec | None, OrNone()],
                Field(default=None, description=" ".join(spec.__doc__.split("\n\n")[0].split())),
            )
            for name, spec in AUXILIARY.items()
        },
    )


class TrainSpec(_Losses):
    """The authors' settings by default. ``batch_size`` is global: all processes and micro-batches."""

    steps: Annotated[PositiveInt, Field(description="optimizer steps, in all")]
    batch_size: Annotated[PositiveInt, Field(description="of a step, over all processes and micro-batches")] = 128
    micro_batch: Annotated[
        PositiveInt | None, Field(description="samples per process and backward pass; default: all at once")
    ] = None
    optimizer: Annotated[Optimizer, Field(description="how gradients change weights")] = default_of(OPTIMIZERS)
    lr: Annotated[Positive, Field(description="the learning rate")] = 1e-4
    lr_schedule: Annotated[LrSchedule, Field(description="lr over the steps")] = default_of(LR_SCHEDULES)
    betas: Annotated[tuple[Decay, Decay], Field(description="AdamW's averages of gradients and squares")] = (0.9, 0.999)
    weight_decay: Annotated[
        NotNegative, Field(description="times lr, of each step; none of vectors and embeddings")
    ] = 0.0
    grad_clip: Annotated[Positive, Field(description="the largest norm of all gradients together")] = 1.0
    class_dropout_prob: Annotated[Fraction, Field(description="samples that train without their class")] = 0.1
    ema: Annotated[Ema, Field(description="average of the weights, which is what samples")] = ConstantEma()
    seed: Annotated[
        SeedsOrNumber, Field(description="of weights, order and noise: one number, or {init = 0, order = 0, noise = 0}")
    ] = Seeds.of(0)

    freeze: Annotated[
        tuple[str, ...], Field(description='parameters that keep their first values, by name: ["blocks.0.*"]')
    ] = ()

    route: Annotated[RouteSpec | None, OrNone(), Field(description="patches that skip blocks; default: none")] = None

    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 where the device is quicker in it, else fp32")
    ] = "auto"
    tf32: Annotated[Flag, Field(description="TensorFloat-32 for float32 products on CUDA")] = True
    compile: Annotated[Flag, Field(description="torch.compile of the blocks")] = False
    cuda_graphs: Annotated[
        Flag, Field(description="forward and backward pass as one CUDA graph, for small networks; on one GPU")
    ] = False
    activation_checkpointing: Annotated[Flag, Field(description="less memory, a third more work")] = False
    parallel: Annotated[
        Literal["ddp", "fsdp2"], Field(description="fsdp2: each process keeps a share of weights and optimizer")
    ] = "ddp"

    log_every: Annotated[PositiveInt, Field(description="steps")] = 50
    preview_every: Annotated[Count, Field(description="steps; 0: never")] = 5_000
    preview_first: Annotated[Flag, Field(description="a preview before the first step too, of noise")] = False
    preview_count: Annotated[PositiveInt, Field(le=400, description="images")] = 36
    checkpoint_every: Annotated[PositiveInt, Field(description="steps")] = 5_000
    keep_last: Annotated[PositiveInt, Field(description="checkpoints")] = 2
    keep_every: Annotated[PositiveInt | None, Field(description="also keep every checkpoint at a multiple of this")] = (
        None
    )
    holdout_every: Annotated[
        Count, Field(description="steps between losses on what data.holdout keeps back; 0: never")
    ] = 500
    holdout_n: Annotated[
        PositiveInt, Field(description="noisy samples of those losses: so many held out, so many trained on")
    ] = 1_536
    skip_limit: Annotated[PositiveInt, Field(description="non-finite steps in a row before rolling back")] = 5
    score: Annotated[ScoreSpec, Field(description="a distance to the data while training")] = ScoreSpec()
    peak_tflops: Annotated[
        Positive | None, Field(description="of one device, for model FLOP utilisation; default: known GPUs'")
    ] = None
    tracker: Annotated[Literal["tensorboard", "wandb", "none"], Field(description="where curves are drawn")] = (
        "tensorboard"
    )

    @property
    def auxiliary(self) -> dict[str, AuxiliarySpec]:
        """The further losses that the recipe has, by name."""
        chosen = {name: getattr(self, name) for name in AUXILIARY}
        return {name: spec for name, spec in chosen.items() if spec is not None}

    def ends(self) -> dict[str, int]:
        """Key -> the step with which a further loss or the route ends, of those that do before the run."""
        parts = self.auxiliary | ({"route": self.route} if self.route is not None else {})
        return {f"train.{name}": round(part.stop_at * self.steps) for name, part in parts.items() if part.stop_at < 1}


def share_of_batch(spec: TrainSpec, world_size: int) -> int:
    """How many of the global batch's samples each process takes. Raises DiscliError when it does not divide."""
    share, rest = divmod(spec.batch_size, world_size)
    if rest:
        raise DiscliError(
            f"train.batch_size {spec.batch_size} does not divide among {world_size} processes.",
            f"Use a multiple of {world_size}: batch_size is the sum over all processes.",
        )
    if spec.micro_batch and share % spec.micro_batch:
        raise DiscliError(
            f"train.micro_batch {spec.micro_batch} does not divide the {share} samples of each process.",
            "Use a divisor of train.batch_size / number of processes.",
        )
    at_once = spec.micro_batch or share
    for loss in spec.auxiliary.values():
        if at_once % loss.group():
            raise DiscliError(
                f"train.{loss.name} compares {loss.group()} neighbours in a batch, and a backward pass has {at_once}.",
                f"Use a multiple of {loss.group()} for each process and micro-batch, or another number together.",
            )
    return share
