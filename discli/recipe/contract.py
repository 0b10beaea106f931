"""What a data file promises, and whether a recipe may train on it.

The contract is written once, by ``discli encode``, as JSON inside the HDF5 file. Every checkpoint
keeps a copy, so that sampling knows how to turn the model's output back into pictures.
"""

from typing import Annotated, Literal, NoReturn

from discli.errors import DiscliError
from discli.recipe.recipe import Recipe
from discli.recipe.spec import Spec, by_name


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
    scaling_factor: float
    shift_factor: float = 0.0
    channels: int = 4
    downsample: int = 8


CodecIdentity = Annotated[RgbIdentity | VaeIdentity, *by_name("rgb")]


class DataContract(Spec):
    """Everything about a data file except the samples themselves."""

    discli_version: str
    codec: CodecIdentity
    resolution: int
    crop: Literal["adm", "resize", "celeba"]
    dtype: Literal["uint8", "float16", "float32"]
    flip_stored: bool
    num_samples: int  # pictures; a file with flip_stored holds two latents of each
    class_names: tuple[str, ...]  # empty: unlabelled
    source: str
    source_sha256: str  # of the listing: names and sizes

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_size(self) -> int:
        return self.resolution // self.codec.downsample


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
            f"pictures of {contract.resolution} px",
            "data.resolution",
            str(contract.resolution),
        )
    for key in ("channels", "downsample"):
        if getattr(wanted, key) != getattr(held, key):
            ours, theirs = getattr(wanted, key), getattr(held, key)
            _refuse(recipe, file, f"data.codec.{key} is {ours}", f"{key} {theirs}", f"data.codec.{key}", str(theirs))
    if wanted.name == "vae" and held.name == "vae" and wanted.vae is not None and wanted.vae != held.vae:
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
            " (a flipped latent is not the latent of a flipped picture).",
            "Encode again with --flip, or train with --set data.horizontal_flip=false.",
        )


def _refuse(recipe: Recipe, file: str, ours: str, theirs: str, key: str, value: str) -> NoReturn:
    raise DiscliError(
        f"{recipe.name}: {ours}, but {file} holds {theirs}.",
        f"Give the matching --data file, or change the recipe: --set {key}={value}",
    )
