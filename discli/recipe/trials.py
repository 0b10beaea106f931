"""Studies: a base recipe, what varies, seeds and a budget, to one recipe for every trial.

A study file says ``base``, then ``[axes]`` (a list of values for each key, taken as a product) or
``[[points]]`` (one table each), or both; ``[set]`` holds for all trials. See recipes/ablations/.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from discli.recipe.load import Tree, explain, find_recipe, find_shipped, is_file, merge, parse_recipe, read_tree
from discli.recipe.recipe import Recipe
from discli.recipe.seeds import Seeds
from discli.recipe.study import Study, leaves
from discli.runtime.errors import DiscliError, did_you_mean
from discli.runtime.shipped import shipped_files

_LONGEST_NAME = 200  # bytes; file systems allow 255
_SHOWN = 12  # names in a message


@dataclass(frozen=True)
class Point:
    """One combination of settings; the seeds of a study repeat it."""

    name: str
    settings: dict[str, Any]  # dotted key -> value
    reported: str = ""  # what was found elsewhere: words for the report


@dataclass(frozen=True)
class Trial:
    """One training run of a study."""

    point: Point
    seed: Seeds
    tree: Tree

    @property
    def name(self) -> str:
        seed = str(self.seed)
        return f"{self.point.name}/{'seed-' if seed.isdecimal() else ''}{seed}"

    def recipe(self, steps: int) -> Recipe:
        """Raises DiscliError where the point's settings do not make a recipe."""
        return parse_recipe(merge(self.tree, {"train": {"steps": steps}}), self.name)


def shipped_studies() -> dict[str, Path]:
    """Name -> file of every study that came with discli."""
    return shipped_files("ablations")


def load_study(name_or_path: str | Path) -> tuple[Study, list[Trial]]:
    """A study file, or a shipped one by its name, and its trials: all seeds of the first point, then the next.

    Raises DiscliError naming file and key, or the trial whose recipe is not valid.
    """
    path = find_shipped(name_or_path, shipped_studies(), "study")
    try:
        study = Study.model_validate(read_tree(path))
    except ValidationError as error:
        raise explain(error, str(path), Study) from None
    if study.power is not None and study.power.earlier is not None and (path.parent / study.power.earlier).is_dir():
        beside = study.power.model_copy(update={"earlier": str(path.parent / study.power.earlier)})
        study = study.model_copy(update={"power": beside})
    base_tree = read_tree(find_recipe(_relative_to(path, study.base)))
    points = list(_points(study))
    names = [point.name for point in points]
    if len({*names}) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DiscliError(
            f"{path}: two points are called {twice}.",
            "Give every one of [[points]] its own name, and no value of an axis twice.",
        )
    if study.baseline is not None and study.baseline not in names:
        raise DiscliError(
            f"{path}: baseline = {study.baseline!r} is none of the points.",
            did_you_mean(study.baseline, names) or f"They are {', '.join(names[:_SHOWN])}.",
        )
    for name in names:
        if len(name.encode()) > _LONGEST_NAME:
            raise DiscliError(
                f"{path}: {name} is too long for a folder's name.",
                "Write the combinations as [[points]], each with a short name.",
            )
    return study, [_trial(study, base_tree, point, seed) for point in points for seed in study.trainings]


def _relative_to(study_file: Path, base: str) -> str | Path:
    beside = study_file.parent / base
    return beside if is_file(beside) else base


def _points(study: Study) -> Iterator[Point]:
    """Each of ``points`` (or the base alone) with every combination of ``axes``."""
    axes = dict(leaves(study.axes))
    for given in study.points or ({},):
        named = str(given.get("name", ""))
        fixed = dict(leaves({key: value for key, value in given.items() if key not in ("name", "reported")}))
        for values in itertools.product(*axes.values()):
            varied = dict(zip(axes, values, strict=True))
            shown = varied if named else fixed | varied
            parts = [named] if named else []
            parts += [f"{_word(_short(key, [*fixed, *axes]))}={_word(value)}" for key, value in shown.items()]
            yield Point(",".join(parts) or "base", fixed | varied, given.get("reported", ""))


def _trial(study: Study, base_tree: Tree, point: Point, seed: Seeds) -> Trial:
    tree = merge(base_tree, study.set)
    for key, value in point.settings.items():
        tree = merge(tree, _nested(key, value))
    return Trial(point, seed, merge(tree, {"name": study.name, "train": {"seed": seed.model_dump()}}))


def _nested(dotted: str, value: Any) -> Tree:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    nested: Tree = value
    return nested


def _short(key: str, keys: list[str]) -> str:
    """The last part of a dotted key, unless another key ends the same."""
    last = key.rpartition(".")[2]
    return last if [other.rpartition(".")[2] for other in keys].count(last) == 1 else key


def _word(value: Any) -> str:
    """A value as a part of a folder's name."""
    if isinstance(value, dict):
        return ",".join(str(part) if key == "name" else f"{key}={_word(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "+".join(map(_word, value))
    text = value if isinstance(value, str) else json.dumps(value, default=str)  # TOML has dates
    return re.sub(r"[^\w.+-]+", "_", text)
