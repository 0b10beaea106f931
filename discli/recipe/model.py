"""``[model]``: the network. Each choice is a file in a folder of `discli.model`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.kinds import MixerSpec, ScanOrderSpec
from discli.recipe.presets import PRESETS
from discli.recipe.spec import ChoiceSpec, Count, Fraction, PositiveInt, Spec

MIXERS = read_choices("model/mixers", MixerSpec, default="mamba")
SKIPS = read_choices("model/skips", ChoiceSpec, default="concat")
CONDITIONINGS = read_choices("model/conditionings", ChoiceSpec, default="token")
SCAN_ORDERS = read_choices("model/scan_orders", ScanOrderSpec, default="raster")

if TYPE_CHECKING:
    Mixer = MixerSpec
    Skip = ChoiceSpec
    Conditioning = ChoiceSpec
    ScanOrder = ScanOrderSpec
else:
    Mixer = one_of(MIXERS)
    Skip = one_of(SKIPS)
    Conditioning = one_of(CONDITIONINGS)
    ScanOrder = one_of(SCAN_ORDERS)

ScanBackend = Literal["auto", "reference", "cpu", "cuda", "triton", "mamba-ssm"]


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
    skip: Annotated[Skip, Field(description="how a block of the second half meets its mirror in the first")] = SKIPS[
        "concat"
    ]()
    conditioning: Annotated[Conditioning, Field(description="how time and class reach the blocks")] = default_of(
        CONDITIONINGS
    )
    mixer: Annotated[Mixer, Field(description="how tokens exchange information")] = default_of(MIXERS)
    scan_order: Annotated[ScanOrder, Field(description="in which order scans visit the patches")] = default_of(
        SCAN_ORDERS
    )
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
    def _mixer_fits(self) -> Self:
        self.mixer.check(self)
        if not self.mixer.ordered and self.scan_order.name != "raster":
            raise ValueError(
                f'scan_order "{self.scan_order.name}" means nothing to the mixer "{self.mixer.name}":'
                ' use scan_order "raster"'
            )
        return self
