"""What a data file promises, and whether a recipe may train on it.

The contract is written once, by ``discli encode``, as JSON inside the HDF5 file. Every checkpoint
keeps a copy, so that sampling knows how to turn the model's output back into images.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from pydantic import model_validator

from discli.recipe.choices import one_of, read_choices
from discli.recipe.codec import CodecIdentity, in_short
from discli.recipe.data import CODECS
from discli.recipe.kinds import AuxiliarySpec
from discli.recipe.recipe import Recipe
from discli.recipe.size import Size, SizeField
from discli.recipe.spec import Count, Fraction, PositiveInt, Real, Spec
from discli.runtime.errors import DiscliError
from discli.runtime.plugins import plugins

MOST_SHAPES = 255  # a byte says which
OWN_TEACHER = "own"  # what the features of discli teacher are called, unless it is told another name
IDENTITIES = read_choices("data/autoencoders", CodecIdentity, default="rgb")

if TYPE_CHECKING:
    _Identity = CodecIdentity
else:
    _Identity = one_of(IDENTITIES)


class FeatureGrid(Spec):
    """What a data file holds of a network that has seen each of its images: a grid of vectors, float16."""

    name: str  # what a recipe calls it
    network: str  # in a few words
    weights_sha256: str
    input_size: SizeField  # px, as the network sees the images
    side: SizeField  # rows and columns of vectors
    channels: PositiveInt
    accuracy: Fraction | None = None  # of a teacher trained on the file's labels, on images held out from it

    @property
    def dataset(self) -> str:
        """Its place in the file."""
        return f"features.{self.name}"

    def describe(self) -> str:
        recognises = "" if self.accuracy is None else f", recognises {self.accuracy:.1%} of images held out"
        shape = f"{self.side.height} x {self.side.width} x {self.channels}, float16, of images of {self.input_size} px"
        return f"{self.name}: {shape}; {self.network}{recognises}; weights sha256 {self.weights_sha256}"


class DataContract(Spec):
    """Everything about a data file except the samples themselves."""

    discli_version: str
    codec: _Identity
    resolution: SizeField
    shapes: tuple[SizeField, ...] = ()  # where there are several: each image has one of these, resolution first
    crop: Literal["adm", "resize", "celeba"]
    dtype: Literal["uint8", "float16", "float32"]
    flip_stored: bool
    num_samples: Count  # images; a file with flip_stored holds two latents of each
    class_names: tuple[str, ...]  # empty: unlabelled
    source: str
    source_sha256: str  # of the listing: names, sizes and labels
    small: Literal["upscale", "skip"] = "upscale"  # what became of images smaller than the crop
    fast_decode: bool = False  # JPEGs decoded smaller where the crop would halve them: pixels differ slightly
    num_skipped: Count = 0
    num_upscaled: Count = 0
    channel_mean: tuple[Real, ...] = ()  # of what the model is given: pixels in [-1, 1], scaled latents
    channel_std: tuple[Real, ...] = ()
    shard: tuple[Count, PositiveInt] | None = None  # (i, n): part i of n, to be merged before use
    grids: tuple[FeatureGrid, ...] = ()  # features of the images, for alignment

    @model_validator(mode="after")
    def _something_to_see(self) -> Self:
        if self.shapes and (self.shapes[0] != self.resolution or len(self.shapes) > MOST_SHAPES):
            raise ValueError(f"shapes begin with resolution, and are {MOST_SHAPES} at most")
        if any(min(self.sample_shape(number)) < 1 for number in range(len(self.sizes))):
            raise ValueError(f"resolution {self.resolution} is less than codec.downsample {self.codec.downsample}")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_size(self) -> Size:
        """Of what the model sees, in pixels or latent cells."""
        return self.resolution.cut_into(self.codec.downsample)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Of the images in pixels: one, or those of `shapes`."""
        return self.shapes or (self.resolution,)

    def sample_shape(self, number: int) -> tuple[int, int, int]:
        """(stored_channels, h, w) of an image of number ``number`` of `sizes`."""
        return (self.codec.stored_channels, *self.sizes[number].cut_into(self.codec.downsample))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """What is stored of one image: (stored_channels, h, w), or (2, stored_channels, h, w) with its mirror image.

        Of several shapes rows are flat, and as long as that of the largest: ``unpacked`` takes the rest off.
        """
        sample: tuple[int, ...] = self.sample_shape(0)
        if self.shapes:
            sample = (max(math.prod(self.sample_shape(number)) for number in range(len(self.shapes))),)
        return (2, *sample) if self.flip_stored else sample

    def unpacked(self, rows: Any, number: int) -> Any:
        """Rows (..., length), of numpy or torch, of images of number ``number`` of `sizes`: (..., channels, h, w)."""
        if not self.shapes:
            return rows
        shape = self.sample_shape(number)
        return rows[..., : math.prod(shape)].reshape(*rows.shape[:-1], *shape)

    @property
    def can_flip(self) -> bool:
        """Whether samples can be mirrored: pixels always, latents if encode stored the mirrored images' too."""
        return self.codec.is_pixels or self.flip_stored

    def grid(self, name: str) -> FeatureGrid | None:
        """The features of that name, if the file holds them."""
        return next((grid for grid in self.grids if grid.name == name), None)

    def as_used_by(self, recipe: Recipe) -> Self:
        """Without the features that training ``recipe`` does not read: a run does not depend on them."""
        compared = (loss.compares_with() for loss in recipe.train.auxiliary.values())
        used = {features.network for features in compared if features}
        return self.model_copy(update={"grids": tuple(grid for grid in self.grids if grid.name in used)})

    def is_teacher(self, recipe: Recipe, weights_sha256: str) -> bool:
        """Whether training ``recipe`` on this file teaches a model the features of the network with these weights."""
        return any(grid.weights_sha256 == weights_sha256 for grid in self.as_used_by(recipe).grids)

    def recipe_codec(self) -> dict[str, Any]:
        """The table ``data.codec`` of a recipe for this file."""
        codec, choosable = self.codec, CODECS[self.codec.name].model_fields
        return {key: getattr(codec, key) for key in ("name", "channels", "downsample") if key in choosable}

    def settings(self) -> dict[str, Any]:
        """What was asked for, as against what came of it: equal for runs that may continue one another."""
        outcome = {"discli_version", "source", "num_samples", "num_skipped", "num_upscaled", "grids"}
        settings = self.model_dump(mode="json", exclude=outcome | {"channel_mean", "channel_std", "codec"})
        # Where the autoencoder lies is no setting; its weights are. And what is measured is an outcome.
        return settings | {"codec": self.codec.model_dump(mode="json", exclude={"vae", "mean", "std"})}

    def describe(self) -> list[tuple[str, str]]:
        """(heading, text) lines for people, everything in the contract among them."""
        fast = ", JPEGs decoded smaller (--fast-decode)" if self.fast_decode else ""
        images = f"{self.num_samples:,} of {' or '.join(map(str, self.sizes))} px, crop {self.crop}{fast}"
        lines = [("images", images), *self.codec.describe()]
        shape = " x ".join(map(str, self.row_shape))
        lines += [
            ("stored", f"{shape} {self.dtype}" + (", both orientations" if self.flip_stored else "")),
            ("classes", _numbered(self.class_names) if self.class_names else "none: unlabelled"),
            ("source", f"{self.source} (listing sha256 {self.source_sha256})"),
            ("skipped", f"{self.num_skipped:,} unreadable or left out"),
            ("too small", f"{self.num_upscaled:,} enlarged" if self.small == "upscale" else "skipped"),
            ("written by", f"discli {self.discli_version}"),
        ]
        if self.channel_mean and self.codec.statistics is None:  # else the model sees 0 and 1
            lines.append(("mean", f"{in_short(self.channel_mean)} per channel, as the model sees it"))
            lines.append(("std", f"{in_short(self.channel_std)} per channel, as the model sees it"))
        lines += [("features", grid.describe()) for grid in self.grids]
        if self.shard is not None:
            lines.append(("part", f"{self.shard[0]} of {self.shard[1]}, not merged yet"))
        return lines


def check_fits(recipe: Recipe, contract: DataContract, file: str) -> None:
    """Refuse, before the first step, data that the recipe's model was not meant for.

    Raises DiscliError with one line that names both sides.
    """
    wanted, held = recipe.data.codec, contract.codec
    if wanted.name != held.name:
        _refuse(recipe, file, f'data.codec is "{wanted.name}"', f'"{held.name}"', "data.codec", f"{held.name}")
    if recipe.data.resolution != contract.resolution:
        _refuse(
            recipe,
            file,
            f"data.resolution is {recipe.data.resolution}",
            f"images of {contract.resolution} px",
            "data.resolution",
            _as_setting(contract.resolution),
        )
    multiple = held.downsample * recipe.model.patch_size
    for size in contract.sizes:
        if not size.divides_by(multiple):
            raise DiscliError(
                f"{recipe.name}: {file} holds images of {size} px, which do not divide into patches of {multiple} px.",
                "Encode in sizes that do, or change the recipe's model.patch_size.",
            )
    for key in ("channels", "downsample"):
        if getattr(wanted, key) != getattr(held, key):
            ours, theirs = getattr(wanted, key), getattr(held, key)
            _refuse(recipe, file, f"data.codec.{key} is {ours}", f"{key} {theirs}", f"data.codec.{key}", str(theirs))
    ours, theirs = wanted.weights, held.weights
    if ours is not None and theirs is not None and not _same(ours, theirs):
        _refuse(recipe, file, f"data.codec.vae is {ours}", f"latents of {theirs}", "data.codec.vae", theirs)
    if recipe.model.num_classes and recipe.model.num_classes != contract.num_classes:
        held_classes = f"{contract.num_classes} classes" if contract.num_classes else "no labels"
        _refuse(
            recipe,
            file,
            f"model.num_classes is {recipe.model.num_classes}",
            held_classes,
            "model.num_classes",
            str(contract.num_classes),
        )
    if recipe.data.horizontal_flip and not contract.can_flip:
        raise DiscliError(
            f"{recipe.name}: data.horizontal_flip is true, but {file} holds latents of one orientation"
            " (a flipped latent is not the latent of a flipped image).",
            "Encode again with --flip, or train with --set data.horizontal_flip=false.",
        )
    for loss in recipe.train.auxiliary.values():
        _check_features(recipe, loss, contract, file)


def _check_features(recipe: Recipe, loss: AuxiliarySpec, contract: DataContract, file: str) -> None:
    features = loss.compares_with()
    if features is None:
        return
    asks = f"{recipe.name}: train.{loss.name} asks for features of {features.network}"
    grid = contract.grid(features.network)
    if grid is None:
        held = ", ".join(one.name for one in contract.grids)
        named = "" if features.network == OWN_TEACHER else f" --name {features.network}"
        published = features.network in plugins("data/teachers", "")
        command = f"encode {file} --features {features.network}" if published else f"teacher {file}{named}"
        raise DiscliError(
            f"{asks}, and {file} holds {f'those of {held}' if held else 'none'}.",
            f"Add them: discli {command}   Or train without: --set train.{loss.name}=none",
        )
    if features.input_size is not None and features.input_size != grid.input_size:
        _refuse(
            recipe,
            file,
            f"train.{loss.name}.input_size is {features.input_size}",
            f"features of images of {grid.input_size} px",
            f"train.{loss.name}.input_size",
            _as_setting(grid.input_size),
        )


def _same(vae: str, other: str) -> bool:
    """Hub ids by name; folders also by where they lead."""
    return vae == other or (Path(vae).is_dir() and Path(vae).resolve() == Path(other).resolve())


def _as_setting(size: Size) -> str:
    """After ``--set KEY=``."""
    return str(size.plain()).replace(" ", "")


def _numbered(class_names: tuple[str, ...], most: int = 12) -> str:
    """12 classes: 0 airplane, 1 automobile, ..., 11 wolf"""
    shown = [f"{i} {name}" for i, name in enumerate(class_names)]
    if len(shown) > most:
        shown = [*shown[: most - 2], "...", shown[-1]]
    return f"{len(class_names)}: " + ", ".join(shown)


def _refuse(recipe: Recipe, file: str, ours: str, theirs: str, key: str, value: str) -> NoReturn:
    raise DiscliError(
        f"{recipe.name}: {ours}, but {file} holds {theirs}.",
        f"Give the matching --data file, or change the recipe: --set {key}={value}",
    )
