"""``manifest.json`` beside a folder of samples: everything needed to make the same images again."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from discli.recipe import DataContract, Recipe
from discli.recipe.sample import SampleSpec
from discli.recipe.size import SizeField
from discli.recipe.spec import Count, Flag, PositiveInt, Spec
from discli.recipe.train import Ema
from discli.runtime.errors import DiscliError
from discli.runtime.files import check_model, read_json, write_text

Format = Literal["png", "npz", "zip", "none"]  # of the images beside a manifest; none: they are not stored
_FILE = "manifest.json"
NOISE = "noise alone"  # what samples begin with


class GivenImage(Spec):
    """An image that samples began from."""

    name: str | None  # of its file; None: it came from memory
    sha256: str  # of the file; from memory, of its pixels


class Edited(Spec):
    """The images that samples began from, and how; see `discli.diffusion.edit.Edit`."""

    init: tuple[GivenImage, ...]
    mask: GivenImage | None = None
    strength: float
    resamplings: PositiveInt = 1
    invert: Flag = False


class Between(Spec):
    """Samples that lead from one noise or class to another."""

    what: Literal["noises", "classes"]
    frames: PositiveInt


class Manifest(SampleSpec):
    """The settled ``[sample]`` settings that the images were drawn with, and from what, how many and which.

    Written by sampling, read by whoever scores or completes the images.
    """

    format_version: Literal[1] = 1
    discli_version: str
    torch_version: str
    device: str
    run: str  # a run's folder, or the file of weights that lies in none
    checkpoint: str
    step: Count
    model_sha256: str  # of the weights, wherever they lie
    data_file: str | None = None
    n: PositiveInt
    format: Format = "png"
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**64)]  # more than TOML, and so `Count`, can hold
    nfe: PositiveInt  # network calls an image
    autoguidance_checkpoint: str | None = None
    autoguidance_sha256: str | None = None  # of its weights
    ema: Ema
    class_choice: tuple[Count, ...] | Literal["random"] = "random"
    classes: tuple[Count, ...] | None = None  # of every image; None: an unconditional model, or between classes
    edit: Edited | None = None
    between: Between | None = None
    size: SizeField | None = None  # of the images in pixels; None: as trained
    reconstruction_error: float | None = None  # of an inversion, once it is known: root mean square, of 255
    recipe: Recipe
    contract: DataContract
    finished: Flag = False

    @model_validator(mode="after")
    def _one_class_per_image(self) -> Self:
        if self.classes is not None and len(self.classes) != self.n:
            raise ValueError(f"{len(self.classes)} classes of {self.n} samples")
        return self

    def in_words(self) -> dict[str, str]:
        """Of what decides the images that which is long, or may be absent: for a score that is to name it."""
        interval, number = self.cfg_interval, self.recipe.model.num_classes
        edit, between, begins = self.edit, self.between, NOISE
        choice = "random" if self.class_choice == "random" else ", ".join(map(str, self.class_choice))
        if self.class_choice == tuple(range(number)):
            choice = "balanced"
        if edit is not None:
            images = hashlib.sha256("".join(image.sha256 for image in edit.init).encode()).hexdigest()[:12]
            begins = f"{len(edit.init):,} given images ({images}), strength {edit.strength:g}"
            begins += ", inverted" if edit.invert else ""
            if edit.mask is not None:
                begins += f", mask {edit.mask.sha256[:12]}, {edit.resamplings} times"
        elif between is not None:
            begins = f"{between.frames} frames between {between.what}"
        return {
            "cfg_interval": "everywhere" if interval is None else f"{interval.low:g} to {interval.high:g}",
            "class_choice": choice,
            "begins_with": begins,
        }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces the one in ``folder`` at once."""
    write_text(folder / _FILE, manifest.model_dump_json(indent=1))


def read_manifest(folder: Path) -> Manifest | None:
    """What ``discli sample`` wrote beside its images; None for any other folder.

    Raises DiscliError where it is corrupt.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    fix = "Sample again, or remove it to score plain images."
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise DiscliError(f"{path} is not JSON ({error}).", fix) from None
    if not isinstance(found, dict) or "discli_version" not in found:
        return None
    return check_model(found, path, Manifest, fix)
