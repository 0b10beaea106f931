"""What a short run keeps of a long one's settings is said, with flags that help; nothing of settings that fit."""

import re

import pytest

from discli.recipe import Recipe, load_recipe, parse_recipe, shipped_recipes
from discli.recipe.config_warnings import config_warnings
from discli.recipe.load import with_overrides

FITTING = {"steps": 100, "ema": {"name": "constant", "decay": 0.95}}
SHORT = {"objective": "v"}


def tree(diffusion=SHORT, **changed):
    model = {"embed_dim": 16, "depth": 3}
    return {
        "name": "t", "model": model, "data": {"resolution": 8}, "diffusion": diffusion, "train": FITTING | changed
    }  # fmt: skip


def doubted(diffusion=SHORT, **changed):
    return config_warnings(parse_recipe(tree(diffusion, **changed), "t"))


def test_fitting_settings_raise_no_doubt():
    assert doubted() == []
    assert doubted(ema="power") == []
    assert doubted(ema={"decay": 0.0}) == []
    assert doubted({"objective": "eps"}, steps=100_000, ema="constant") == []


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_no_shipped_recipe_raises_one(name):
    recipe: Recipe = load_recipe(name)
    assert config_warnings(recipe) == []


def test_a_warm_up_as_long_as_the_run():
    line, remedy = doubted(lr=1e-4, lr_schedule={"name": "cosine", "warmup_steps": 2000})
    assert "warmup_steps = 2,000 for 100 steps" in line
    assert "no higher than 5e-06" in line
    assert "--set train.lr_schedule.warmup_steps=5" in remedy
    assert doubted(lr_schedule={"name": "cosine", "warmup_steps": 99}) == []


@pytest.mark.parametrize("steps", [1, 10, 100, 2_400, 20_000])
def test_an_average_longer_than_the_run(steps):
    line, _ = doubted(steps=steps, ema="constant")
    assert f"keeps {0.9999**steps:.0%} of the first weights" in line


def test_what_goes_on_from_a_trained_model_is_asked_for_its_warm_up_alone():
    long = tree({"objective": "eps"}, ema="constant", lr_schedule={"warmup_steps": 20_000})
    line, remedy = config_warnings(parse_recipe(long, "t"), goes_on=True)
    assert "warmup_steps" in line
    assert re.findall(r"--set (\S+)", remedy) == ["train.lr_schedule.warmup_steps=5"]


@pytest.mark.parametrize("steps", [1, 10, 300, 2_400, 15_000])
def test_the_flags_that_are_named_leave_no_doubt(steps):
    """As with ``train dis-s-2 --set train.steps=300``: the paper's settings, cut short."""
    long = tree({"objective": "eps"}, steps=steps, ema="constant", lr_schedule={"warmup_steps": 20_000})
    *_, remedy = config_warnings(parse_recipe(long, "t"))
    flags = re.findall(r"--set (\S+)", remedy)
    assert {"diffusion.objective=x0-flow", "diffusion.timesteps=logit-normal", "sample.sampler=heun"} < set(flags)
    mended = parse_recipe(*with_overrides(long, "t", flags))
    assert config_warnings(mended) == []
    assert mended.train.steps == steps


def test_min_snr_in_a_short_run():
    line, remedy = doubted({"objective": "v", "weighting": "min-snr"})
    assert "min-snr" in line
    assert re.findall(r"--set (\S+)", remedy) == ["diffusion.weighting=uniform"]
    assert doubted({"objective": "v", "weighting": "min-snr"}, steps=20_000, ema={"decay": 0.99}) == []


@pytest.mark.parametrize(
    ("diffusion", "sample"),
    [
        ({"objective": "eps", "weighting": "min-snr"}, {"sampler": "ddim", "timestep_spacing": "trailing"}),
        ({"objective": "eps"}, {"sampler": "euler", "steps": 30}),
    ],
)
def test_the_flags_lead_to_a_recipe_that_loads(diffusion, sample):
    before = tree(diffusion) | {"sample": sample}
    *_, remedy = config_warnings(parse_recipe(before, "t"))
    mended = parse_recipe(*with_overrides(before, "t", re.findall(r"--set (\S+)", remedy)))
    assert (mended.diffusion.objective.name, config_warnings(mended)) == ("x0-flow", [])
    assert mended.diffusion.timesteps.mean == 0.4
