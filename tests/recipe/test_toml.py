"""Settings written as TOML read back as they were."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discli.recipe import load_recipe, parse_recipe, shipped_recipes
from discli.recipe.load import load_tree
from discli.recipe.toml import to_toml, toml_value
from tests.fuzz.damage import examples

PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True).filter(lambda key: key != "name")
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@examples(100)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_tree_survives(tree):
    assert tomllib.loads(to_toml(tree)) == tree


@examples(100)
@given(VALUES)
def test_a_value_is_one_line(value):
    assert "\n" not in toml_value(value)
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


@pytest.mark.parametrize("name", shipped_recipes())
@pytest.mark.parametrize("resolved", [False, True])
def test_shipped_recipes_survive(name, resolved):
    flow = load_recipe(name).diffusion.objective.process == "flow"
    sampler = '{name="heun"}' if flow else '{name="ddim",eta=0.5}'
    overrides = ["train.steps=123456", f"sample.sampler={sampler}", 'train.score.reference="a \\"b\\".npz"']
    for settings in ([], overrides):
        recipe = load_recipe(name, settings)
        tree = recipe.model_dump(mode="json") if resolved else load_tree(name, settings)[0]
        assert parse_recipe(tomllib.loads(to_toml(tree)), "printed") == recipe


def test_the_style_is_that_of_the_shipped_recipes():
    tree = {"name": "x", "none": None, "train": {"steps": 500_000, "warm": 2000, "lr": 1e-6, "skip": {"name": "add"}}}
    assert to_toml(tree | {"eval": {"ema": {"name": "c", "d": 0.5}, "betas": (0.9, 1)}}) == (
        'name = "x"\n\n[train]\nsteps = 500_000\nwarm = 2000\nlr = 1e-6\nskip = "add"\n'
        '\n[eval]\nema = { name = "c", d = 0.5 }\nbetas = [0.9, 1]\n'
    )
    assert math.isnan(tomllib.loads(f"x = {toml_value(float('nan'))}")["x"])
