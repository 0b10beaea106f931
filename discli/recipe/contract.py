"""What a data file promises, and whether a recipe may train on it.

The contract is written once, by ``discli encode``, as JSON inside the HDF5 file. Every checkpoint
keeps a copy, so that sampling knows how to turn the model's output back into images.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import model_validator

from discli.recipe.recipe import Recipe
from discli.recipe.spec import Count, Positive, PositiveInt, Real, Spec, by_name
from discli.runtime.errors import DiscliError


class RgbIdentity(Spec):
    """uint8 pixels; the model sees x / 127.5 - 1."""

    name: Literal["rgb"] = "rgb"

    @property
    def channels(self) -> int:
        return 3

    @property
    def downsample(self) -> int:
        return 1


class VaeIdentity(Spec):
    """Mean and std of a diffusers autoencoder's latent; the model sees (z - shift) * scale."""

    name: Literal["vae"] = "vae"
    vae: str  # hub id or folder, as it was given to encode
    kind: str  # diffusers class name
    weights_sha256: str
    scaling_factor: Positive
    shift_factor: Real = 0.0
    channels: PositiveInt = 4
    downsample: PositiveInt = 8


CodecIdentity = Annotated[RgbIdentity | VaeIdentity, *by_name("rgb")]


class DataContract(Spec):
    """Everything about a data file except the samples themselves."""

    discli_version: str
    codec: CodecIdentity
    resolution: PositiveInt
    crop: Literal["adm", "resize", "celeba"]
    dtype: Literal["uint8", "float16", "float32"]
    flip_stored: bool
    num_samples: Count  # images; a file with flip_stored holds two latents of each
    class_names: tuple[str, ...]  # empty: unlabelled
    source: str
    source_sha256: str  # of the listing: names, sizes and labels
    small: Literal["upscale", "skip"] = "upscale"  # what became of images smaller than the crop
    num_skipped: Count = 0
    num_upscaled: Count = 0
    channel_mean: tuple[Real, ...] = ()  # of what the model is given: pixels in [-1, 1], scaled latents
    channel_std: tuple[Real, ...] = ()
    shard: tuple[Count, PositiveInt] | None = None  # (i, n): part i of n, to be merged before use

    @model_validator(mode="after")
    def _something_to_see(self) -> Self:
        if self.input_size < 1:
            raise ValueError(f"resolution {self.resolution} is less than codec.downsample {self.codec.downsample}")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_size(self) -> int:
        return self.resolution // self.codec.downsample

    @property
    def row_shape(self) -> tuple[int, ...]:
        """What is stored of one image: (3, H, W), (2C, h, w), or (2, 2C, h, w) with both orientations."""
        side = self.input_size
        if self.codec.name == "rgb":
            return (self.codec.channels, side, side)
        moments = (2 * self.codec.channels, side, side)
        return (2, *moments) if self.flip_stored else moments

    def settings(self) -> dict[str, Any]:
        """What was asked for, as against what came of it: equal for runs that may continue one another."""
        outcome = {"discli_version", "source", "num_samples", "num_skipped", "num_upscaled"}
        settings = self.model_dump(mode="json", exclude=outcome | {"channel_mean", "channel_std", "codec"})
        # Where the autoencoder lies is no setting; its weights are.
        return settings | {"codec": self.codec.model_dump(mode="json", exclude={"vae"})}

    def describe(self) -> list[tuple[str, str]]:
        """(heading, text) lines for people, everything in the contract among them."""
        codec = self.codec
        lines = [("images", f"{self.num_samples:,} of {self.resolution} px, crop {self.crop}")]
        if codec.name == "rgb":
            lines.append(("codec", "rgb: pixels; the model sees x / 127.5 - 1"))
        else:
            lines += [
                ("codec", f"vae: {codec.vae} ({codec.kind}, {codec.channels} channels, 1/{codec.downsample} the side)"),
                ("scaling", f"the model sees (z - {codec.shift_factor:g}) * {codec.scaling_factor:g}"),
                ("weights", f"sha256 {codec.weights_sha256}"),
            ]
        shape = " x ".join(map(str, self.row_shape))
        lines += [
            ("stored", f"{shape} {self.dtype}" + (", both orientations" if self.flip_stored else "")),
            ("classes", _numbered(self.class_names) if self.class_names else "none: unlabelled"),
            ("source", f"{self.source} (listing sha256 {self.source_sha256})"),
            ("skipped", f"{self.num_skipped:,} unreadable or left out"),
            ("too small", f"{self.num_upscaled:,} enlarged" if self.small == "upscale" else "skipped"),
            ("written by", f"discli {self.discli_version}"),
        ]
        for heading, values in (("mean", self.channel_mean), ("std", self.channel_std)):
            if values:
                lines.append(
                    (heading, ", ".join(f"{value:.4g}" for value in values) + " per channel, as the model sees it")
                )
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
            str(contract.resolution),
        )
    for key in ("channels", "downsample"):
        if getattr(wanted, key) != getattr(held, key):
            ours, theirs = getattr(wanted, key), getattr(held, key)
            _refuse(recipe, file, f"data.codec.{key} is {ours}", f"{key} {theirs}", f"data.codec.{key}", str(theirs))
    if wanted.name == "vae" and held.name == "vae" and wanted.vae is not None and not _same(wanted.vae, held.vae):
        _refuse(recipe, file, f"data.codec.vae is {wanted.vae}", f"latents of {held.vae}", "data.codec.vae", held.vae)
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
    if recipe.data.horizontal_flip and held.name == "vae" and not contract.flip_stored:
        raise DiscliError(
            f"{recipe.name}: data.horizontal_flip is true, but {file} holds latents of one orientation"
            " (a flipped latent is not the latent of a flipped image).",
            "Encode again with --flip, or train with --set data.horizontal_flip=false.",
        )


def _same(vae: str, other: str) -> bool:
    """Hub ids by name; folders also by where they lead."""
    return vae == other or (Path(vae).is_dir() and Path(vae).resolve() == Path(other).resolve())


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
