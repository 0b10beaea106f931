"""What each kind of choice must say of itself for a recipe to be checked: the bases of the Specs in other rooms.

Skips, conditionings, timesteps and so on say nothing but their name, and derive from `ChoiceSpec` itself.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec, Count, Fraction, Positive, PositiveInt

if TYPE_CHECKING:
    from discli.recipe.model import ModelSpec

# betas: DDPM's schedule, of the objectives eps, v and x0. flow: the straight line from data to noise, of flow
# and x0-flow.
Process = Literal["betas", "flow"]

# What the walks of a scan order have in common: parameters, or channels, of which each then scans its part.
WalksShare = Literal["nothing", "parameters", "channels"]

# Which of a schedule's timesteps a sampler visits: `discli.recipe.sample.spaced_timesteps`.
TimestepSpacing = Literal["linspace", "leading", "trailing", "ddim"]

HeadDim = Annotated[PositiveInt | None, Field(description="channels of a head; by default 64 or what comes near")]


class MixerSpec(ChoiceSpec):
    """How tokens exchange information."""

    # False where tokens are a set to the mixer, so that no scan order but raster means anything.
    ordered: ClassVar[bool] = True
    # True where it calls `discli.scan.bidirectional_scan`, whose backend model.scan chooses.
    uses_scan: ClassVar[bool] = False
    # True where a convolution goes along its scans, which `GridConvSpec` may take the place of.
    convolves: ClassVar[bool] = False
    # What it can let the walks of a scan order share.
    walks_may_share: ClassVar[tuple[WalksShare, ...]] = ("nothing",)

    def check(self, model: "ModelSpec") -> None:
        """Raises ValueError where the mixer's settings and those of the model do not fit together."""

    def check_heads(self, channels: int, head_dim: int | None) -> None:
        """Raises ValueError where heads of ``head_dim`` do not divide ``channels``."""
        if head_dim and channels % head_dim:
            raise ValueError(
                f"mixer.head_dim {head_dim} does not divide the {channels} channels of {self.name}:"
                f" use a divisor, or leave it out for {head_width(channels, None)}"
            )


def head_width(channels: int, head_dim: int | None) -> int:
    """Channels of a head: ``head_dim``, or of what divides ``channels`` the number nearest to 64."""
    # Beyond 127 nothing is nearer to 64 than 1 is, which divides everything.
    return head_dim or min((d for d in range(1, 128) if channels % d == 0), key=lambda d: abs(d - 64))


class ScanOrderSpec(ChoiceSpec):
    """In which order scans visit the patches."""

    walks_share: ClassVar[WalksShare] = "nothing"

    def walks(self, grid: Size, block: int) -> list[list[int]]:
        """One walk or more over a ``grid`` of patches, of any height and width, in block number ``block`` of those
        that scan.

        A walk lists each patch once, by its raster index (row * width + column), in the order of the visit.
        Each is scanned in both directions, each direction with its own parameters. The number of walks must not depend
        on ``grid``.
        """
        raise NotImplementedError


class GridConvSpec(ChoiceSpec):
    """How neighbours on the grid of patches meet, whatever the scan's order is."""

    @property
    def where(self) -> Literal["before", "instead"] | None:
        """Before each mixer, instead of the convolution along its scans, or nowhere."""
        return None


class ObjectiveSpec(ChoiceSpec):
    """What the network predicts."""

    process: ClassVar[Process] = "betas"

    def learns_variance(self) -> bool:
        """Whether the network has twice the channels: the prediction, then the variance's interpolation."""
        return False


class WeightingSpec(ChoiceSpec):
    """How much the squared error counts at each timestep."""

    fits: ClassVar[tuple[Process, ...]] = ("betas", "flow")


class SamplerSpec(ChoiceSpec):
    """How noise becomes an image."""

    fits: ClassVar[tuple[Process, ...]] = ("betas",)
    spacings: ClassVar[tuple[TimestepSpacing, ...]] = ("linspace", "leading", "trailing", "ddim")


class ScaleScheduleSpec(ChoiceSpec):
    """How the guidance scale changes over the steps."""

    def share(self, progress: float) -> float:
        """The share of the scale beyond 1 at ``progress``, from 0 in pure noise to 1 at the end.

        With share s the scale is 1 + s * (cfg_scale - 1).
        """
        raise NotImplementedError


class LrScheduleSpec(ChoiceSpec):
    """The learning rate over the steps: a linear warm-up, and what comes after it."""

    warmup_steps: Annotated[Count, Field(description="steps over which lr rises from 0")] = 0

    def at(self, base: float, step: int, total: int) -> float:
        """Learning rate of step 0 .. total - 1; a pure function, so that resuming needs no state."""
        if step < self.warmup_steps:
            return base * (step + 1) / self.warmup_steps
        return self.after_warmup(base, step, total)

    def after_warmup(self, base: float, step: int, total: int) -> float:
        """`at` from step ``warmup_steps`` on, as a share or a function of ``base``."""
        raise NotImplementedError


class AveragedOutput(NamedTuple):
    """What the averaged weights put out behind ``block``, from 1, at a timestep that is less noisy than training's.

    By how much is drawn from 0 to ``earlier``, a share of all timesteps.
    """

    block: int
    earlier: float


class Features(NamedTuple):
    """Those of a network that the data file holds; ``input_size`` in px of its images, if one is asked for."""

    network: str
    input_size: Size | None


class AuxiliarySpec(ChoiceSpec):
    """A further loss beside the diffusion's: the table ``[train.NAME]``; not there, there is no such loss."""

    weight: Annotated[Positive, Field(description="times the loss, beside the diffusion's")] = 1.0
    stop_at: Annotated[Fraction, Field(description="share of train.steps after which it is left out")] = 1.0

    def looks_at(self, model: "ModelSpec") -> tuple[int, ...]:
        """Blocks, from 1, whose outputs the loss is given."""
        raise NotImplementedError

    def compares_with(self) -> Features | None:
        """Features of the clean images that the loss is given, if any."""
        return None

    def learns_from(self, model: "ModelSpec") -> AveragedOutput | None:
        """What the loss is given of the averaged weights, if anything: one more forward pass in every step."""
        return None

    def group(self) -> int:
        """How many neighbours in the global batch an image's loss depends on, itself among them."""
        return 1

    def check(self, model: "ModelSpec") -> None:
        """Raises ValueError where it does not fit the model."""
        averaged = self.learns_from(model)
        deepest = max(*self.looks_at(model), averaged.block if averaged else 1)
        if deepest > model.depth:
            raise ValueError(f"train.{self.name}: there is no block {deepest}, model.depth is {model.depth}")


def at_share(share: float, depth: int) -> int:
    """The block, from 1, that lies at a share of ``depth`` blocks."""
    return max(1, round(share * depth))
