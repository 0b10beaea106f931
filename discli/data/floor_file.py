"""The optimal loss of a data set as ``discli floor`` keeps it: beside the file, by the hash of what it depends on."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from discli.data.content import content_sha256
from discli.data.store import Store
from discli.recipe import DataContract, Recipe
from discli.recipe.spec import PositiveInt, Real
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_model, to_json, write_text

_HOW = "Make it again: discli floor DATA.h5"


class ClassFloor(BaseModel):
    """The floor of one class, of ``queries`` noisy draws; as `Floor`'s."""

    name: str
    queries: PositiveInt
    error: tuple[Real, ...]
    std_error: tuple[Real, ...]


class Floor(BaseModel):
    """The least mean squared error of x0, per element of what the model sees, at each of ``sigmas``.

    Training's own loss at that noise level is this, times `discli.diffusion.levels.NoiseLevels.scale`. ``std_error``
    is of the noisy draws; ``bias`` the size of the subset estimator's, None where the posterior is over all samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    discli_version: str
    data: str  # the data file's name
    data_sha256: str
    contract: DataContract
    mirrored: bool  # each sample and its mirror image, alike often
    conditional: bool  # the class is given
    holdout: Real  # share that is not part of it
    samples: PositiveInt  # that are part of it, mirror images not counted
    queries: PositiveInt  # noisy draws
    keys: PositiveInt  # samples that the posterior is over
    sigmas: tuple[Real, ...]
    error: tuple[Real, ...]
    std_error: tuple[Real, ...]
    bias: tuple[Real, ...] | None = None
    classes: tuple[ClassFloor, ...] = ()
    seconds: Real = 0.0

    @model_validator(mode="after")
    def _one_each(self) -> "Floor":
        if not len(self.sigmas) == len(self.error) == len(self.std_error):
            raise ValueError("sigmas, error and std_error must be as many")
        return self

    def at(self, sigmas: Sequence[float]) -> list[tuple[float, float]]:
        """(error, its uncertainty: standard error and bias) at levels that this has. Raises DiscliError for others."""
        found = []
        for sigma in sigmas:
            place = min(range(len(self.sigmas)), key=lambda i: abs(self.sigmas[i] - sigma))
            if abs(self.sigmas[place] - sigma) > 1e-6 * sigma:
                raise DiscliError(f"The floor of {self.data} is of other noise levels.", _HOW + " --recipe RECIPE")
            bias = self.bias[place] if self.bias else 0.0
            found.append((self.error[place], (self.std_error[place] ** 2 + bias**2) ** 0.5))
        return found


class FloorOf(BaseModel):
    """What a floor depends on beside the data file."""

    model_config = ConfigDict(frozen=True)

    mirrored: bool
    conditional: bool
    holdout: float
    sigmas: tuple[float, ...]

    @classmethod
    def recipe(cls, recipe: Recipe, sigmas: Sequence[float]) -> "FloorOf":
        """Of what the recipe's network is trained on."""
        return cls(
            mirrored=recipe.data.horizontal_flip,
            conditional=recipe.model.num_classes > 0,
            holdout=recipe.data.holdout,
            sigmas=tuple(sigmas),
        )

    def path(self, store: Store) -> Path:
        """Where the floor of ``store`` lies."""
        about = self.model_dump(mode="json") | {"sigmas": [f"{sigma:.9g}" for sigma in self.sigmas]}
        key = hashlib.sha256(json.dumps([content_sha256(store), about], sort_keys=True).encode()).hexdigest()
        return store.beside(f".floor-{key[:12]}.json")


def write_floor(path: Path, floor: Floor) -> None:
    write_text(path, to_json(floor))


def read_floor(path: Path) -> Floor:
    """Raises DiscliError for what is not a floor."""
    return read_model(path, Floor, _HOW)


def find_floor(store: Store, of: FloorOf) -> Floor | None:
    """The one that is kept beside a data file, None where there is none. Raises DiscliError where it is corrupt."""
    path = of.path(store)
    if not path.is_file():
        return None
    floor = read_floor(path)
    check_floor(floor, path, of, store.contract)
    return floor


def check_floor(floor: Floor, path: Path, of: FloorOf, contract: DataContract) -> None:
    """Refuse, in two lines, a floor of other data than a network was trained on."""
    ours, theirs = contract.model_dump(mode="json"), floor.contract.model_dump(mode="json")
    for what, one, other in (
        ("codec", ours["codec"]["name"], theirs["codec"]["name"]),
        ("resolution", ours["resolution"], theirs["resolution"]),
        ("samples", ours["num_samples"], theirs["num_samples"]),
        ("mirrored", of.mirrored, floor.mirrored),
        ("conditional", of.conditional, floor.conditional),
        ("holdout", of.holdout, floor.holdout),
    ):
        if one != other:
            raise DiscliError(f"{path} is the floor of other data: {what} {other}, not {one} as the run's.", _HOW)
    for key in ("codec", "source_sha256", "crop", "channel_mean", "channel_std"):
        if ours[key] != theirs[key]:
            raise DiscliError(f"{path} is the floor of another file, {floor.data}: its {key} differs.", _HOW)
