"""``discli floor RUN --schedule``: from a run's losses to the next run's timesteps and weights."""

import tomllib

import pytest
import torch

from discli.cli.floor import floor as floor_command
from discli.diffusion.levels import noise_levels
from discli.evaluation.floor import floor_of
from discli.recipe import load_recipe
from discli.recipe.toml import to_toml
from discli.reports.schedule import schedule_of_run
from discli.runs.status import run_status
from discli.runtime.errors import DiscliError
from discli.training.train import train
from tests.tiny_run import RECIPE, content

SETTINGS = ["diffusion.objective=x0-flow", "sample.sampler=heun", "train.steps=12"]
HELD_OUT = [*SETTINGS, "data.holdout=0.2", "train.holdout_every=6", "train.holdout_n=48"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_a_run_says_where_the_next_one_has_most_to_gain(recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=HELD_OUT)
    floor = floor_of(digits_file, load_recipe(recipe, HELD_OUT), queries=64)
    found = schedule_of_run(run_status(run), floor)
    tree = {"diffusion": {key: spec.model_dump(mode="json") for key, spec in found._asdict().items()}}
    sigmas = noise_levels(load_recipe(recipe, HELD_OUT).diffusion).sigma
    times, weights = tree["diffusion"]["timesteps"], tree["diffusion"]["weighting"]
    assert times["sigmas"] == pytest.approx(sigmas.tolist(), rel=1e-4)
    assert sum(times["share"]) == pytest.approx(1, abs=1e-3)
    assert list(weights["floor"]) == pytest.approx(list(floor.error), rel=1e-4, abs=1e-9)

    following = tmp_path / "following.toml"
    following.write_text(f'extends = "tiny.toml"\nname = "following"\n{to_toml(tree)}')
    assert tomllib.loads(to_toml(tree))["diffusion"]["timesteps"]["name"] == "loss-aware"
    whole = train(following, data=digits_file, out=tmp_path / "whole", overrides=SETTINGS)
    parts = train(following, data=digits_file, out=tmp_path / "parts", overrides=[*SETTINGS, "train.steps=6"])
    train(following, data=digits_file, out=parts, overrides=SETTINGS)
    assert content(parts) == content(whole)
    levels = noise_levels(load_recipe(following, SETTINGS).diffusion)
    torch.testing.assert_close(levels.mass, torch.tensor(times["share"]).double(), rtol=0.02, atol=1e-3)


def test_without_held_out_losses_there_is_none(recipe, digits_file, tmp_path, monkeypatch):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=SETTINGS)
    with pytest.raises(DiscliError) as refused:
        schedule_of_run(run_status(run))
    assert "data.holdout" in refused.value.hint

    def nothing(*args, **kwargs):
        raise AssertionError("the floor, which takes long, was begun")

    monkeypatch.setattr("discli.evaluation.floor.floor_of", nothing)
    for what in (run, digits_file):
        with pytest.raises(DiscliError) as refused:
            floor_command(what, schedule=True)
        assert "data.holdout" in refused.value.hint
