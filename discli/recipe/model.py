"""``[model]``: the network. Each choice is a file in a folder of `discli.model`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from discli.recipe.choices import default_of, one_of, read_choices
from discli.recipe.kinds import GridConvSpec, MixerSpec, ScanOrderSpec
from discli.recipe.presets import PRESETS
from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec, Count, Fraction, ListToo, OrNone, PositiveInt, Spec

MIXERS = read_choices("model/mixers", MixerSpec, default="mamba")
SKIPS = read_choices("model/skips", ChoiceSpec, default="concat")
CONDITIONINGS = read_choices("model/conditionings", ChoiceSpec, default="token")
SCAN_ORDERS = read_choices("model/scan_orders", ScanOrderSpec, default="raster")
PATCH_EMBEDS = read_choices("model/patch_embeds", ChoiceSpec, default="plain")
GRID_CONVS = read_choices("model/grid_convs", GridConvSpec, default="none")
HEAD_CONVS = read_choices("model/head_convs", ChoiceSpec, default="none")

if TYPE_CHECKING:
    Mixers = MixerSpec | tuple[MixerSpec, ...]
    Skip = ChoiceSpec
    Conditioning = ChoiceSpec
    ScanOrder = ScanOrderSpec
    PatchEmbed = ChoiceSpec
    GridConv = GridConvSpec
    HeadConv = ChoiceSpec
else:
    Mixers = Annotated[one_of(MIXERS), ListToo()]
    Skip = one_of(SKIPS)
    Conditioning = one_of(CONDITIONINGS)
    ScanOrder = one_of(SCAN_ORDERS)
    PatchEmbed = one_of(PATCH_EMBEDS)
    GridConv = one_of(GRID_CONVS)
    HeadConv = one_of(HEAD_CONVS)


class LoraSpec(Spec):
    """Beside each matrix W of the blocks two thin ones, W + B A, which alone are trained (LoRA, arXiv:2106.09685).

    With ``discli train --from``, whose weights stay as they were. ``discli export --merge`` adds up W + B A.
    """

    rank: Annotated[PositiveInt, Field(le=2**12, description="rows of A and columns of B")] = 8


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
    mixer: Annotated[
        Mixers, Field(description="how tokens exchange information; a list: block by block, then from its start again")
    ] = default_of(MIXERS)
    scan_order: Annotated[ScanOrder, Field(description="in which order scans visit the patches")] = default_of(
        SCAN_ORDERS
    )
    patch_embed: Annotated[PatchEmbed, Field(description="how an image becomes patches")] = default_of(PATCH_EMBEDS)
    grid_conv: Annotated[GridConv, Field(description="a convolution over the grid of patches")] = default_of(GRID_CONVS)
    head_conv: Annotated[HeadConv, Field(description="a convolution over the image after the head")] = default_of(
        HEAD_CONVS
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
    lora: Annotated[LoraSpec | None, OrNone(), Field(description="thin matrices beside those of a trained model")] = (
        None
    )

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
        if len(self.mixers) > self.depth:
            raise ValueError(f"mixer lists {len(self.mixers)}, and depth is {self.depth}: leave some out")
        for mixer in self.mixers:
            mixer.check(self)
        names = " and ".join(f'"{name}"' for name in dict.fromkeys(mixer.name for mixer in self.mixers))
        ordered = [mixer for mixer in self.mixers if mixer.ordered]
        if not ordered and self.scan_order.name != "raster":
            raise ValueError(
                f'scan_order "{self.scan_order.name}" means nothing to the mixer {names}: use scan_order "raster"'
            )
        for mixer in ordered:
            if self.scan_order.walks_share not in mixer.walks_may_share:
                raise ValueError(
                    f'scan_order "{self.scan_order.name}": walks of the mixer "{mixer.name}" cannot share'
                    f' {self.scan_order.walks_share}: use another scan_order, such as "four"'
                )
        if self.grid_conv.where == "instead" and not any(mixer.convolves for mixer in self.mixers):
            raise ValueError(
                f'grid_conv.place "instead": the mixer {names} has no convolution along its scan: use place "before"'
            )
        taps = 1 if self.grid_conv.where == "instead" else self.d_conv
        if self.scan == "mamba-ssm" and self.uses_scan and not 2 <= taps <= 4:
            what = 'grid_conv.place "instead" leaves it one tap' if taps == 1 != self.d_conv else f"d_conv is {taps}"
            raise ValueError(
                f'scan "mamba-ssm" convolves with 2 to 4 taps, and {what}: use another scan, such as "auto"'
            )
        if (self.expand * self.embed_dim) % self.scan_parts:
            raise ValueError(
                f'scan_order "{self.scan_order.name}" needs expand * embed_dim to divide by {self.scan_parts}'
            )
        return self

    @property
    def mixers(self) -> tuple[MixerSpec, ...]:
        """Block by block, repeated: block i has ``mixers[i % len(mixers)]``."""
        return self.mixer if isinstance(self.mixer, tuple) else (self.mixer,)

    @property
    def uses_scan(self) -> bool:
        """Whether any mixer calls `discli.scan.bidirectional_scan`."""
        return any(mixer.uses_scan for mixer in self.mixers)

    @property
    def scan_parts(self) -> int:
        """Groups of a mixer's inner channels, of which each is scanned along a walk of its own; one, if all are."""
        return len(self.scan_order.walks(Size(1, 1), 0)) if self.scan_order.walks_share == "channels" else 1

    @property
    def scan_channels(self) -> int:
        """Channels of one scan: the mixer's inner ones, or those of a part."""
        return self.expand * self.embed_dim // self.scan_parts

    @property
    def scan_taps(self) -> int:
        """Tokens that the convolution along a scan sees: 1, a scale and a shift, where the grid's takes its place."""
        return 1 if self.grid_conv.where == "instead" else self.d_conv
