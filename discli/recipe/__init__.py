"""Recipes: pydantic models of everything that can be chosen. Never imports torch."""

from discli.recipe.config_warnings import config_warnings
from discli.recipe.contract import DataContract, check_fits
from discli.recipe.load import find_recipe, load_recipe, parse_recipe, shipped_recipes
from discli.recipe.recipe import Recipe
from discli.recipe.sweep import Study, Trial, load_study, shipped_studies

__all__ = [
    "DataContract",
    "Recipe",
    "Study",
    "Trial",
    "check_fits",
    "config_warnings",
    "find_recipe",
    "load_recipe",
    "load_study",
    "parse_recipe",
    "shipped_recipes",
    "shipped_studies",
]
