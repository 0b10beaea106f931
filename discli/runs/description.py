"""``run.json``: what a run was started with, written and read through one class."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError

from discli import __version__
from discli.recipe import DataContract, Recipe, parse_recipe
from discli.recipe.data_files import absolute
from discli.runs.layout import RunFolder, is_run
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_model, to_json, write_text


class SettingsChange(BaseModel):
    """What a run that ended in non-finite steps changed: setting -> (old, new), from ``step`` on."""

    step: int
    settings: dict[str, tuple[Any, Any]]


Take = Literal["ema", "weights", "both"]  # of a model that a run begins from


class Part(BaseModel):
    """What became of some parameters when a run began from a trained model."""

    how: Literal["taken", "changed", "new", "left out"]
    what: str
    why: str = ""
    names: list[str]  # without LoRA; of what is left out, the old ones


class Began(BaseModel):
    """The trained model that a run's first weights were made from."""

    source: str  # as it was named, from the root
    take: Take
    file: str  # of the weights
    sha256: str
    step: int
    parts: list[Part] = []  # empty in the header of a file of weights
    before: "Began | None" = None  # what that model had begun from itself

    def __str__(self) -> str:
        """Without folders, which are nobody's business where a model is published."""
        what = {"ema": "averages", "weights": "weights", "both": "weights and averages"}[self.take]
        earlier = f"; before that: {self.before}" if self.before else ""
        return f"{what} of {Path(self.source).name}, step {self.step:,}, sha256 {self.sha256[:12]}{earlier}"

    def without_folders(self) -> "Began":
        """The same where a model is published."""
        names = {key: Path(getattr(self, key)).name for key in ("source", "file")}
        return self.model_copy(update={**names, "before": self.before and self.before.without_folders()})


def read_began(metadata: Mapping[str, str]) -> Began | None:
    """From the header of a file of weights; None where it does not say, or not in a form that is known."""
    try:
        return Began.model_validate_json(metadata["began"])
    except (KeyError, ValidationError):
        return None


class RunDescription(BaseModel):
    """What a run was started with.

    ``recipe`` and ``contract`` are kept as they were written, so that those of another version of discli
    survive; `read_recipe` and `read_contract` read them as today's, with today's defaults for what is newer.
    """

    format: Literal[1] = 1
    id: str = ""  # by which a tracker recognises the run
    command: str = ""  # that started the run; empty where the recipe came as an object
    discli_version: str
    recipe: dict[str, Any]
    contract: dict[str, Any]
    data_file: str  # empty: not known
    changes: list[SettingsChange] = []
    began: Began | None = None  # None: from nothing

    @classmethod
    def of(cls, recipe: Recipe, contract: DataContract, data_file: Path | None) -> Self:
        return cls(
            discli_version=__version__,
            recipe=recipe.model_dump(mode="json"),
            contract=contract.model_dump(mode="json"),
            data_file="" if data_file is None else str(absolute(data_file)),
        )

    @property
    def metadata(self) -> dict[str, str]:
        """What every file of weights carries in its header, so that it can be used without its run."""
        about = self.model_dump(include={"discli_version", "recipe", "contract", "data_file"})
        began = {"began": self.began.model_copy(update={"parts": []}).model_dump()} if self.began else {}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in (about | began).items()}

    def read_recipe(self, where: str) -> Recipe:
        """Raises DiscliError where it is not understood; ``where`` is the file to name."""
        return parse_recipe(self.recipe, where)

    def read_contract(self, where: str) -> DataContract:
        """Raises DiscliError where it is not understood; ``where`` is the file to name."""
        try:
            return DataContract.model_validate(self.contract)
        except ValidationError as error:
            found = f"{where}: the data's description is of another discli ({error.error_count()} fields differ)."
            raise DiscliError(found, f"It was written by discli {self.discli_version}.") from None

    def write(self, folder: Path) -> None:
        write_text(RunFolder(folder).description, to_json(self))


def read_run(folder: Path) -> RunDescription:
    """run.json of a run. Raises DiscliError where ``folder`` is not one, or the file is corrupt."""
    if not is_run(folder):
        raise DiscliError(f"{folder} is not a run of discli train.", "Give a run's folder; discli runs lists them.")
    how = "Restore it from a copy, or start over with another --out."
    return read_model(RunFolder(folder).description, RunDescription, how)
