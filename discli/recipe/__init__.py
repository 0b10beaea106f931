"""Recipes: pydantic models of everything that can be chosen. Never imports torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discli.recipe.contract import DataContract, check_fits
    from discli.recipe.load import find_recipe, load_recipe, parse_recipe, shipped_recipes
    from discli.recipe.recipe import Recipe
    from discli.recipe.study import Study
    from discli.recipe.trials import Trial, load_study, shipped_studies

# Not imported before they are used: the command line lists names here, and has no time for pydantic.
_WHERE = {
    "contract": ["DataContract", "check_fits"],
    "load": ["find_recipe", "load_recipe", "parse_recipe", "shipped_recipes"],
    "recipe": ["Recipe"],
    "study": ["Study"],
    "trials": ["Trial", "load_study", "shipped_studies"],
}

__all__ = [
    "DataContract",
    "Recipe",
    "Study",
    "Trial",
    "check_fits",
    "find_recipe",
    "load_recipe",
    "load_study",
    "parse_recipe",
    "shipped_recipes",
    "shipped_studies",
]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"discli.recipe.{module}"), name)
    raise AttributeError(f"module 'discli.recipe' has no attribute {name!r}")
