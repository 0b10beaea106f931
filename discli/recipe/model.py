"""``[model]``: the network. Each choice names one class in `discli.model`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from discli.recipe.presets import PRESETS
from discli.recipe.spec import Count, Fraction, PositiveInt, Spec, by_name


class ConcatSkip(Spec):
    """Linear(2D, D) of hidden beside the mirrored in-block's output: the paper's choice."""

    name: Literal["concat"] = "concat"


class AddSkip(Spec):
    """Hidden plus the mirrored in-block's output."""

    name: Literal["add"] = "add"


class NoSkip(Spec):
    """No long skip."""

    name: Literal["none"] = "none"


class GatedSkip(Spec):
    """Hidden plus the mirrored in-block's output times a learned share of each channel."""

    name: Literal["gated"] = "gated"


Skip = Annotated[ConcatSkip | AddSkip | NoSkip | GatedSkip, *by_name("concat")]


class TokenConditioning(Spec):
    """Time and class as tokens in front of the patches: the paper's choice."""

    name: Literal["token"] = "token"


class AdaLNConditioning(Spec):
    """Time plus class scale and shift every block's norm (DiT's adaLN, arXiv:2212.09748)."""

    name: Literal["adaln"] = "adaln"


class AdaLNZeroConditioning(Spec):
    """adaLN that also gates what each block adds, from zero on (DiT's choice, arXiv:2212.09748)."""

    name: Literal["adaln-zero"] = "adaln-zero"


class FinalOnlyConditioning(Spec):
    """Time plus class scale and shift the head's norm, and nothing before it."""

    name: Literal["final-only"] = "final-only"


Conditioning = Annotated[
    TokenConditioning | AdaLNConditioning | AdaLNZeroConditioning | FinalOnlyConditioning, *by_name("token")
]


def head_width(channels: int, head_dim: int | None) -> int:
    """Channels of a head: ``head_dim``, or of what divides ``channels`` the number nearest to 64."""
    # Beyond 127 nothing is nearer to 64 than 1 is, which divides everything.
    return head_dim or min((d for d in range(1, 128) if channels % d == 0), key=lambda d: abs(d - 64))


HeadDim = Annotated[PositiveInt | None, Field(description="channels of a head; by default 64 or what comes near")]


class MambaMixer(Spec):
    """Mamba's selective scan in both directions: the paper's choice. ``scan`` picks what computes it."""

    name: Literal["mamba"] = "mamba"


class Mamba2Mixer(Spec):
    """The scan of Mamba-2 in both directions (arXiv:2405.21060): one rate for all channels of a head."""

    name: Literal["mamba2"] = "mamba2"
    head_dim: HeadDim = None
    chunk: Annotated[PositiveInt, Field(description="most tokens of a chunk: speed and memory, not results")] = 64


class AttentionMixer(Spec):
    """Self-attention and an MLP, as in DiT (arXiv:2212.09748); expand, d_state, d_conv and scan mean nothing to it.

    A block has about twice the parameters of one of Mamba's: half the ``depth`` makes equals.
    """

    name: Literal["attention"] = "attention"
    head_dim: HeadDim = None


Mixer = Annotated[MambaMixer | Mamba2Mixer | AttentionMixer, *by_name("mamba")]


class RasterOrder(Spec):
    """Row by row: the paper's choice."""

    name: Literal["raster"] = "raster"


class ColumnsOrder(Spec):
    """Column by column."""

    name: Literal["columns"] = "columns"


class ZigzagOrder(Spec):
    """To and fro along rows or columns, on another path block by block (ZigMa, arXiv:2403.13802)."""

    name: Literal["zigzag"] = "zigzag"


class FourOrder(Spec):
    """Rows and columns in every block, both ways, each with its own parameters (VMamba, arXiv:2401.10166)."""

    name: Literal["four"] = "four"


ScanOrder = Annotated[RasterOrder | ColumnsOrder | ZigzagOrder | FourOrder, *by_name("raster")]

ScanBackend = Literal["auto", "reference", "cpu", "triton", "mamba-ssm"]


class ModelSpec(Spec):
    """A DiS network (arXiv:2402.05608). ``depth`` counts all blocks, the middle one included."""

    # Bounds far beyond any use: a slip of the finger is refused, instead of filling the memory.

    preset: Annotated[
        Literal["dis-xxs", "dis-xs", "dis-s", "dis-b", "dis-m", "dis-l", "dis-h"] | None,
        Field(description="a size by name, instead of embed_dim and depth; dis-s and above are published"),
    ] = None
    embed_dim: Annotated[PositiveInt, Field(le=2**16, description="width of a token; even")]
    depth: Annotated[PositiveInt, Field(le=1023, description="blocks; odd")]
    patch_size: Annotated[PositiveInt, Field(le=2**10, description="pixels or latent cells on a side of a token")] = 2
    num_classes: Annotated[Count, Field(le=2**24, description="0: unconditional")] = 0
    skip: Annotated[Skip, Field(description="how a block of the second half meets its mirror in the first")] = (
        ConcatSkip()
    )
    conditioning: Annotated[Conditioning, Field(description="how time and class reach the blocks")] = (
        TokenConditioning()
    )
    mixer: Annotated[Mixer, Field(description="how tokens hear of each other")] = MambaMixer()
    scan_order: Annotated[ScanOrder, Field(description="how the scans walk over the patches")] = RasterOrder()
    d_state: Annotated[PositiveInt, Field(le=2**12, description="states of a channel's recurrence")] = 16
    d_conv: Annotated[PositiveInt, Field(le=2**10, description="tokens that the convolution before the scan sees")] = 4
    expand: Annotated[PositiveInt, Field(le=2**6, description="inner width of a mixer / embed_dim")] = 2
    drop_path_rate: Annotated[
        Fraction, Field(description="chance that training leaves the last block out; lower before")
    ] = 0.1
    backward_dt_init: Annotated[
        Literal["like-forward", "authors"],
        Field(description='"authors": their code zeroes the backward dt bias by oversight'),
    ] = "like-forward"
    scan: Annotated[ScanBackend, Field(description="auto: the fastest that works here")] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        """A preset supplies depth and width; what is written beside it wins."""
        preset = given.get("preset") if isinstance(given, dict) else None
        if isinstance(preset, str) and preset in PRESETS:
            return {**PRESETS[preset], **given}
        return given

    @field_validator("embed_dim")
    @classmethod
    def _even_width(cls, embed_dim: int) -> int:
        if embed_dim % 2:
            raise ValueError("must be even: half of the time embedding is cosines, half sines")
        return embed_dim

    @field_validator("depth")
    @classmethod
    def _odd_depth(cls, depth: int) -> int:
        if depth % 2 == 0:
            raise ValueError("must be odd: as many in-blocks as out-blocks, and one in the middle")
        return depth

    @model_validator(mode="after")
    def _drop_path_below_one(self) -> Self:
        if self.drop_path_rate == 1.0:
            raise ValueError("drop_path_rate must be below 1")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        channels = self.embed_dim * (self.expand if self.mixer.name == "mamba2" else 1)
        head_dim: int | None = getattr(self.mixer, "head_dim", None)
        if head_dim and channels % head_dim:
            raise ValueError(
                f"mixer.head_dim {head_dim} does not divide the {channels} channels of {self.mixer.name}:"
                f" use a divisor, or leave it out for {head_width(channels, None)}"
            )
        return self

    @model_validator(mode="after")
    def _order_means_something(self) -> Self:
        if self.mixer.name == "attention" and self.scan_order.name != "raster":
            raise ValueError(
                f'scan_order "{self.scan_order.name}" means nothing to the mixer "attention": use scan_order "raster"'
            )
        return self
