"""Recipes: pydantic models of everything that can be chosen. Never imports torch."""

from discli.recipe.contract import DataContract, check_fits
from discli.recipe.doubts import doubts
from discli.recipe.load import find_recipe, load_recipe, parse_recipe, shipped_recipes
from discli.recipe.recipe import Recipe
from discli.recipe.sweep import Cell, Study, load_study, shipped_studies

__all__ = [
    "Cell",
    "DataContract",
    "Recipe",
    "Study",
    "check_fits",
    "doubts",
    "find_recipe",
    "load_recipe",
    "load_study",
    "parse_recipe",
    "shipped_recipes",
    "shipped_studies",
]
