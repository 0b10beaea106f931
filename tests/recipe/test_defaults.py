"""Settings as lines, and which of them somebody chose."""

import tomllib

import pytest

from discli.recipe import load_recipe, parse_recipe, shipped_recipes
from discli.recipe.defaults import settings


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_lines_are_the_recipe(name):
    recipe = load_recipe(name)
    tree = tomllib.loads("\n".join(setting.text for setting in settings(recipe)))
    assert parse_recipe(tree, name) == recipe


def test_what_a_default_or_a_preset_gives_is_not_chosen():
    recipe = load_recipe(
        "dis-s-2", ["model.depth=5", "train.batch_size=128", "train.score.every=7", "train.ema.decay=0.5"]
    )
    chosen = {f"{setting.table}.{setting.key}": setting.chosen for setting in settings(recipe) if setting.key}
    assert chosen["model.preset"]
    assert chosen["model.depth"]
    assert not chosen["model.embed_dim"]
    assert not chosen["train.batch_size"]
    assert chosen["train.steps"]
    assert chosen["train.score.every"]
    assert not chosen["train.score.n"]
    assert chosen["train.ema"]
