"""A floor as a table: the lowest loss of each objective and weighting at each noise level."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from discli.data.floor_file import Floor
from discli.diffusion.levels import noise_levels
from discli.recipe import Recipe
from discli.recipe.diffusion import OBJECTIVES, WEIGHTINGS, DiffusionSpec
from discli.runtime.numbers import format_number

_UNFOLDED = 400  # columns


def losses_of(floor: Floor, recipe: Recipe | None) -> dict[str, DiffusionSpec]:
    """Name -> what a floor is a floor of: the recipe's own loss alone, or every objective with each weighting.

    A weighting that a name alone does not tell, such as optimal-loss, is left out.
    """
    if recipe is not None:
        spec = recipe.diffusion
        return {_name(spec.objective.name, spec.weighting.name): spec}
    return {
        _name(objective, weighting): DiffusionSpec.model_validate({"objective": objective, "weighting": weighting})
        for objective, kind in OBJECTIVES.items()
        for weighting, how in WEIGHTINGS.items()
        if kind.process in how.fits and not any(field.is_required() for field in how.model_fields.values())
    }


def _name(objective: str, weighting: str) -> str:
    return objective if weighting == "uniform" else f"{objective}, {weighting}"


def floor_record(floor: Floor, recipe: Recipe | None) -> dict[str, Any]:
    """For programs: the floor, and by loss its level at each sigma and its mean over training's timesteps."""
    found = {}
    for name, spec in losses_of(floor, recipe).items():
        levels = noise_levels(spec)
        errors = [error for error, _ in floor.at(levels.sigma.tolist())]
        values = [scale * error for scale, error in zip(levels.scale.tolist(), errors, strict=True)]
        mean = sum(mass * value for mass, value in zip(levels.mass.tolist(), values, strict=True))
        found[name] = {"timesteps": levels.t.tolist(), "levels": values, "mean": mean}
    return floor.model_dump(mode="json") | {"losses": found}


def print_floor(floor: Floor, recipe: Recipe | None) -> None:
    """A row a noise level, the mean over training's timesteps below; then what it is of."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED)
    found = floor_record(floor, recipe)["losses"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("noise s/a", *found, "±"):
        table.add_column(heading, justify="right")
    for place, sigma in enumerate(floor.sigmas):
        error, doubt = floor.error[place], 1.96 * floor.at([sigma])[0][1]
        share = f"{doubt / error:.1%}" if doubt < error else "-"
        table.add_row(format_number(sigma, 3), *(format_number(f["levels"][place], 3) for f in found.values()), share)
    table.add_row("mean", *(format_number(f["mean"], 4) for f in found.values()), style="bold")
    console.print(table)
    which = [
        f"{floor.samples:,} samples of {floor.data}" + (f" ({floor.holdout:.3g} held out)" if floor.holdout else ""),
        "and their mirror images" if floor.mirrored else "not mirrored",
        "the class given" if floor.conditional else "no class given",
        f"{floor.queries:,} noisy draws a level",
        "exact posterior" if floor.keys == floor.samples else f"posterior over {floor.keys:,}; ± has its bias",
        f"{floor.seconds:,.0f} s",
    ]
    console.print()
    console.print("Lowest mean squared error, as training logs mse; ±: 95% interval. Mean: over training's timesteps.")
    console.print("; ".join(which) + ".")
