"""What a short run keeps of a long one's settings is said, and nothing of settings that fit."""

import pytest

from discli.recipe import Recipe, load_recipe, shipped_recipes
from discli.recipe.config_warnings import config_warnings
from discli.recipe.train import TrainSpec

FITTING = {"steps": 100, "ema": {"name": "constant", "decay": 0.95}}


def doubted(**changed):
    return config_warnings(TrainSpec.model_validate(FITTING | changed))


def test_fitting_settings_raise_no_doubt():
    assert doubted() == []
    assert doubted(ema="power") == []
    assert doubted(ema={"decay": 0.0}) == []


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_no_shipped_recipe_raises_one(name):
    recipe: Recipe = load_recipe(name)
    assert config_warnings(recipe.train) == []


def test_a_warm_up_as_long_as_the_run():
    (line,) = doubted(lr=1e-4, lr_schedule={"name": "cosine", "warmup_steps": 2000})
    assert "warmup_steps = 2,000 for 100 steps" in line
    assert "no higher than 5e-06" in line
    assert doubted(lr_schedule={"name": "cosine", "warmup_steps": 99}) == []


@pytest.mark.parametrize("steps", [1, 10, 100, 2_400, 20_000])
def test_an_average_longer_than_the_run_and_what_would_fit(steps):
    (line,) = doubted(steps=steps, ema="constant")
    assert f"keeps {0.9999**steps:.0%} of the untrained weights" in line
    fitting = float(line.rpartition("; ")[2].split()[0])
    assert doubted(steps=steps, ema={"decay": fitting}) == []
