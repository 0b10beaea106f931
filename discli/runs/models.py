"""What is known of the models that have names: their cards, and a list of them for ``discli models``."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from discli.recipe.size import SizeField
from discli.runs.box import model_files
from discli.runs.checkpoint import read_description
from discli.runs.eval_result import EvalResult
from discli.runs.layout import find_run
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_model, sha256_of
from discli.runtime.numbers import format_number


class ModelCard(BaseModel):
    """NAME.card.json beside a model's weights: what their header, recipe and data contract do not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    draws: str  # in a few words
    terms: str  # the data, and what its licence allows
    training: str  # how long, and on what
    sha256: str  # of the weights' file
    scores: tuple[EvalResult, ...] = ()

    @property
    def score_lines(self) -> list[str]:
        """Every score by its own name."""
        return [
            f"{name}: {format_number(value)} (n {result.samples.n:,})"
            for result in self.scores
            for name, value in result.scores.items()
        ]


class Model(BaseModel):
    """One model by name. Where its file cannot be used, ``problem`` says why, and what is not known is None."""

    format: Literal[1] = 1
    name: str
    file: Path
    bytes: int
    hidden_by: Path | None  # a run or another model, which this name stands for instead
    problem: str | None = None
    card: ModelCard | None = None
    resolution: SizeField | None = None
    classes: tuple[str, ...] = ()
    step: int | None = None


def list_models() -> list[Model]:
    """In the order in which names are looked up. Damage to one is its ``problem``, and stops no other."""
    return [_describe(name, file) for name, file in model_files()]


def card_file(weights: Path) -> Path:
    return weights.with_suffix(".card.json")


def read_card(weights: Path) -> ModelCard | None:
    """None where no card lies beside the weights. Raises DiscliError where it is corrupt."""
    file = card_file(weights)
    return read_model(file, ModelCard, "Export the model again.") if file.is_file() else None


def is_as_published(weights: Path, card: ModelCard) -> bool:
    """Whether the weights are those that the card is about."""
    return sha256_of(weights) == card.sha256


def _describe(name: str, file: Path) -> Model:
    meant = find_run(name)
    model = Model(name=name, file=file, bytes=file.stat().st_size, hidden_by=None if meant == file else meant)
    try:
        _, contract, step, _ = read_description(file)
        known = {"resolution": contract.resolution, "classes": contract.class_names, "step": step}
        return model.model_copy(update=known | {"card": read_card(file)})
    except DiscliError as error:
        return model.model_copy(update={"problem": error.message})
