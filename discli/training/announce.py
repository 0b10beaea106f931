"""What a run is and what it takes, on stderr before its first step."""

import shlex
from pathlib import Path

from discli.cost.disk import describe_needs
from discli.recipe import Recipe
from discli.recipe.config_warnings import config_warnings
from discli.runtime.console import stderr
from discli.training.engine import Engine
from discli.training.timed_step import A_DAY, describe_length, describe_time, try_step


def say_what_it_takes(
    recipe: Recipe,
    engine: Engine,
    *,
    folder: Path,
    data_file: Path,
    samples: int,
    step: int,
    parameters: int,
    averages: int,
    trained: int,
    scan: str,
    goes_on: bool,
) -> None:
    """Size, length and time of a run that is at ``step``, warnings about its settings, and the disk it fills.

    ``samples`` are those in the data file, ``averages`` the averages of the weights, ``trained`` the
    parameters that are not frozen; the run ``goes_on`` from a trained model.
    """
    spec = recipe.train
    at = f"resuming at step {step:,} of" if step else "training"
    at = at if step < spec.steps else "finished:"
    length = describe_length(spec.steps, spec.batch_size, samples)
    stderr.print(
        f"{recipe.name}: {parameters:,} parameters, {at} {length}; "
        f"{engine.world_size} x {engine.device.type}, {engine.precision_choice}; scan: {scan}"
    )
    if step < spec.steps:
        _say_how_long(recipe, engine, data_file, spec.steps - step)
        for doubt in config_warnings(recipe, goes_on):
            stderr.print(doubt, style="yellow")
    shards = engine.world_size if engine.sharded else 1
    stderr.print(describe_needs(spec, parameters, averages, trained, shards, folder))


def _say_how_long(recipe: Recipe, engine: Engine, data_file: Path, left: int) -> None:
    """By a trial of some seconds; and where nobody would wait so long, what would take an hour."""
    settled = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": engine.precision})})
    trial = try_step(settled, engine.device, engine.world_size)
    stderr.print(f"Time: {describe_time(trial, recipe, left)}.")
    if trial.whole(recipe, left) > A_DAY:
        name = f"{recipe.name}-1h"
        file = shlex.quote(str(data_file))
        stderr.print(
            f"More than a day. What would take an hour here: discli recipe new {name} --data {file} --minutes 60 "
            f"&& discli train {name}.toml",
            style="yellow",
        )
