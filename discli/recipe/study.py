"""The study file: a base recipe, what varies, seeds, a budget and how trials are scored."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from discli.recipe.load import Tree
from discli.recipe.recipe import Recipe
from discli.recipe.seeds import SOURCES, Seeds
from discli.recipe.spec import Count, FeatureName, Positive, PositiveInt, Real, Spec
from discli.recipe.train import WIDEST_STD
from discli.runtime.numbers import format_number

_MOST_TRIALS = 10_000
_POINT_NAME = re.compile(r"[\w+-][\w.,=+-]*")  # of a folder, too
# What the study itself decides in every trial, and by what.
_DECIDED = {
    "name": "name",
    "train.steps": "budget",
    "train.seed": "seeds",
    "train.tracker": "discli ablate",
    "train.score.every": "score.curve_points",
    "train.score.n": "score.curve_n",
    "train.score.features": "score.features",
}


class Budget(Spec):
    """How long every trial trains; exactly one of these. What is given is the same for all, the steps follow."""

    steps: PositiveInt | None = None
    images: PositiveInt | None = None
    tokens: Annotated[PositiveInt | None, Field(description="patches, conditioning tokens not counted")] = None
    flops: Annotated[Positive | None, Field(description="of forward and backward passes, a multiply-add as two")] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of steps, images, tokens and flops")
        return self

    def steps_of(self, recipe: Recipe, training_flops: float) -> int:
        """Steps of ``recipe`` that use the budget up; ``training_flops`` are those of one image, both passes."""
        if self.steps is not None:
            return self.steps
        if self.images is not None:
            images = float(self.images)
        elif self.tokens is not None:
            images = self.tokens / recipe.num_patches
        else:
            assert self.flops is not None
            images = self.flops / training_flops
        return max(1, round(images / recipe.train.batch_size))

    def describe(self) -> str:
        [kind] = self.model_fields_set
        return f"{format_number(getattr(self, kind), 6)} {kind.replace('flops', 'FLOPs')} each"


class Tune(Spec):
    """What is chosen for each trial after its training: by samples of their own, which no score is of."""

    cfg_scale: Annotated[
        tuple[Annotated[Real, Field(ge=0)], ...], Field(description="guidance to choose from; default: the recipe's")
    ] = ()
    ema: Annotated[
        tuple[Annotated[Real, Field(gt=0, lt=WIDEST_STD)], ...],
        Field(description='relative widths of the average to choose from, of train.ema = "power"; default: its first'),
    ] = ()
    n: Annotated[PositiveInt | None, Field(ge=2, description="samples of each; default: score.n")] = None

    @model_validator(mode="after")
    def _something_to_choose(self) -> Self:
        if any(len({*values}) < len(values) for values in (self.cfg_scale, self.ema)):
            raise ValueError("give every value once")
        if len(self.settings) < 2:
            raise ValueError("nothing to choose from: give two values of cfg_scale or ema at least")
        return self

    @property
    def settings(self) -> list[tuple[float | None, float | None]]:
        """All combinations of (cfg_scale, ema); None: the recipe's own."""
        return list(itertools.product(self.cfg_scale or (None,), self.ema or (None,)))


class StudyScore(Spec):
    """How every trial is scored: with the recipe's sampler and guidance, of the same noise and classes."""

    by: Annotated[
        Literal["distance", "recognised", "held-out loss", "loss gap"],
        Field(
            description="what is called the score. recognised: the share of samples that a probe on the features does"
            " not recognise as the class asked for; the losses need data.holdout, and differ less between seeds"
        ),
    ] = "distance"
    features: FeatureName = "inception"
    n: Annotated[PositiveInt, Field(ge=2, description="samples of the final score")] = 10_000
    curve_points: Annotated[Count, Field(description="scores along the way, where by is distance; 0: none")] = 5
    curve_n: Annotated[
        PositiveInt, Field(ge=2, description="samples of each of those; default: 2,000, or n where that is fewer")
    ] = 2_000
    images: Annotated[PositiveInt, Field(le=64, description="samples of each trial in the image matrix")] = 10
    tune: Annotated[
        Tune | None, Field(description="chosen for each trial by samples of their own: { cfg_scale = [1, 1.5, 2] }")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _no_more_along_the_way(cls, given: Any) -> Any:
        """Else the curve of a small study takes longer than all the rest of it."""
        n = given.get("n") if isinstance(given, dict) else None
        return {"curve_n": n, **given} if isinstance(n, int) and 2 <= n < 2_000 else given


class SeedDesign(Spec):
    """How many seeds each source of chance has: crossed, all combinations of the training's are trained.

    All networks are scored with the same ``sampling`` seeds. A network with the seeds 2, 2, 2 is that of the
    plain seed 2.
    """

    init: Annotated[PositiveInt, Field(description="initial weights")] = 1
    order: Annotated[PositiveInt, Field(description="orders of the data")] = 1
    noise: Annotated[PositiveInt, Field(description="noises of the training")] = 1
    sampling: Annotated[PositiveInt, Field(le=100, description="sets of samples, of every network")] = 1

    @model_validator(mode="after")
    def _something_varies(self) -> Self:
        if max(self.levels) == 1:
            raise ValueError("give one of init, order and noise two seeds at least")
        return self

    @property
    def levels(self) -> tuple[int, ...]:
        """Of init, order and noise."""
        return tuple(getattr(self, source) for source in SOURCES)

    @property
    def varied(self) -> dict[str, int]:
        """The sources of a training that have more than one seed, and how many."""
        return {name: count for name, count in zip(SOURCES, self.levels, strict=True) if count > 1}

    def trainings(self) -> tuple[Seeds, ...]:
        """One for each network, the last source's seeds in turn."""
        every = itertools.product(*(range(count) for count in self.levels))
        return tuple(Seeds(**dict(zip(SOURCES, seeds, strict=True))) for seeds in every)


class Power(Spec):
    """What a study is to find out, so that one that is too small for it is refused before it is run."""

    difference: Annotated[Positive, Field(description="between two points, as a part of the score: 0.02 is 2%")]
    cv: Annotated[
        Positive | None,
        Field(description="standard deviation of one trial's score over seeds, as a part of it; default: 0.015"),
    ] = None
    earlier: Annotated[
        str | None, Field(description="folder of a study that was run, beside this file or here: its spread")
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.cv is not None and self.earlier is not None:
            raise ValueError("give cv or earlier: both say how much scores spread")
        return self


class Study(Spec):
    """What ``discli ablate`` is given."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$", description="letters, digits, . _ + and -")]
    base: Annotated[str, Field(description="a shipped recipe's name, or a file relative to this one")]
    seeds: Annotated[
        Annotated[tuple[Count, ...], Field(min_length=1), Tag("(list)")] | Annotated[SeedDesign, Tag("(table)")],
        Discriminator(lambda given: "(table)" if isinstance(given, dict | SeedDesign) else "(list)"),
        Field(description="a list, or how many of each: { init = 4, order = 4, noise = 4, sampling = 3 }"),
    ] = (0, 1, 2)
    budget: Budget
    score: StudyScore = StudyScore()
    power: Annotated[Power | None, Field(description="the difference to be found")] = None
    set: Annotated[Tree, Field(default_factory=dict, description="over the base recipe, in every trial")]
    axes: Annotated[Tree, Field(default_factory=dict, description="lists of values; all combinations are run")]
    points: Annotated[
        tuple[Tree, ...],
        Field(
            description="one table of settings each, with an optional name, and with what was reported of it elsewhere"
        ),
    ] = ()
    baseline: Annotated[
        str | None,
        Field(description="name of the point that all others are compared with; default: each other, or the best"),
    ] = None

    @model_validator(mode="after")
    def _something_varies(self) -> Self:
        listed = () if isinstance(self.seeds, SeedDesign) else self.seeds
        if len(frozenset(listed)) < len(listed):
            raise ValueError("seeds must differ from one another")
        if not self.axes and not self.points and self.design is None:
            raise ValueError("nothing varies: give [axes] or [[points]]")
        if self.samplings > 1 and self.score.by in ("held-out loss", "loss gap"):
            raise ValueError("seeds.sampling has no effect on a score by losses, which need no samples")
        tune = self.score.tune
        if tune is not None and self.score.by in ("held-out loss", "loss gap"):
            raise ValueError("score.tune has no effect on a score by losses, which need no samples")
        for key, values in leaves(self.axes):
            if not isinstance(values, list) or not values:
                raise ValueError(f"axes.{key} must be a list of values, such as [2, 4]")
        for point in self.points:
            if not _POINT_NAME.fullmatch(str(point.get("name", "-"))):
                raise ValueError("the name of one of points: letters, digits, . , = _ + and -, no dot in front")
            if not isinstance(point.get("reported", ""), str):
                raise ValueError("reported of one of points must be text")
        for where, tree in (("set", self.set), ("axes", self.axes), *(("points", point) for point in self.points)):
            for key, _ in leaves(tree):
                if key == "sample.cfg_scale" and where != "set" and tune is not None and tune.cfg_scale:
                    raise ValueError(f"{where}.{key} would have no effect on scores: score.tune chooses it")
                if key in _DECIDED and (where, key) != ("points", "name"):
                    raise ValueError(f"{where}.{key} would have no effect: {_DECIDED[key]} decides it in all trials")
        trials = len(self.trainings) * max(1, len(self.points)) * math.prod(len(v) for _, v in leaves(self.axes))
        if trials > _MOST_TRIALS:
            raise ValueError(f"these are {trials:,} trials, and {_MOST_TRIALS:,} are the most that one study has")
        return self

    @property
    def design(self) -> SeedDesign | None:
        """None where seeds are a list."""
        return self.seeds if isinstance(self.seeds, SeedDesign) else None

    @property
    def trainings(self) -> tuple[Seeds, ...]:
        """Seeds of the networks of each point."""
        return self.seeds.trainings() if isinstance(self.seeds, SeedDesign) else tuple(map(Seeds.of, self.seeds))

    @property
    def samplings(self) -> int:
        """Sets of samples that each network is scored by: sampling seeds from 0."""
        return self.seeds.sampling if isinstance(self.seeds, SeedDesign) else 1


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no table; a table with a ``name`` is a choice, and so a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and "name" not in value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
