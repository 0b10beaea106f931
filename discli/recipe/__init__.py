"""Recipes: pydantic models of everything that can be chosen. Never imports torch."""

from discli.recipe.contract import DataContract, check_fits
from discli.recipe.load import find_recipe, load_recipe, parse_recipe, shipped_recipes
from discli.recipe.recipe import Recipe

__all__ = [
    "DataContract",
    "Recipe",
    "check_fits",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
]
