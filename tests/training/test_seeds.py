"""Seeds by what they decide: each has its own streams, and one number draws what it did when there was one."""

import tomllib

import pytest
import torch

from discli.model import DiS
from discli.recipe import load_recipe, parse_recipe
from discli.recipe.load import merge
from discli.recipe.seeds import Seeds
from discli.runs.description import read_run
from discli.runtime.errors import DiscliError
from discli.runtime.rng import RngStream, normal, permutation, uniform
from discli.training import batches, routing, step_loss, trainer
from discli.training.batches import BatchPlan
from discli.training.train import train
from tests.tiny_run import RECIPE, content

APART = "train.seed={init=1,order=2,noise=3}"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def with_seed(seed):
    return parse_recipe(merge(tomllib.loads(RECIPE), {"train": {"seed": seed}}), "t")


def test_one_number_draws_what_it_always_drew():
    """Recorded at e576cb2, before there were several."""
    seeds = with_seed(7).train.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.init)
        weights = dict(DiS.from_recipe(with_seed(7)).named_parameters())
    first = weights["blocks.0.mixer.in_proj.weight"].flatten()[:4].tolist()
    assert first == pytest.approx([-0.0969382226, -0.0883084536, -0.1954644024, -0.2138264477], rel=1e-6)
    assert BatchPlan(37, 8, seeds.order).indices(6).tolist() == [33, 2, 26, 3, 5, 7, 24, 32]
    flips = uniform(seeds.order, RngStream.FLIP, 6, torch.arange(8)) < 0.5
    assert flips.nonzero().flatten().tolist() == [1, 7]
    fraction = uniform(seeds.noise, RngStream.TIMESTEP, 6, torch.arange(2)).tolist()
    assert fraction == pytest.approx([0.6752849817, 0.3981620669], rel=1e-6)
    noise = normal(seeds.noise, RngStream.NOISE, 6, torch.arange(1), (2,)).flatten().tolist()
    assert noise == pytest.approx([-1.532207489, 0.0478249676], rel=1e-6)


def test_a_number_and_three_equal_ones_are_the_same_run(recipe, digits_file, tmp_path):
    steps = "train.steps=4"
    one = train(recipe, data=digits_file, out=tmp_path / "one", overrides=[steps, "train.seed=7"])
    same = "train.seed={init=7,order=7,noise=7}"
    three = train(recipe, data=digits_file, out=tmp_path / "three", overrides=[steps, same])
    assert content(one, 4) == content(three, 4)
    assert read_run(three).recipe["train"]["seed"] == 7
    train(recipe, data=digits_file, out=one, overrides=[steps, same])  # resumes


def test_every_source_of_chance_has_its_seed(recipe, digits_file, tmp_path, monkeypatch):
    """With all that a training draws; after a roll-back as well, of which there is one here."""
    drawn = {}

    def spied(draw, stream=None):
        def spy(seed, *where):
            drawn.setdefault(where[0] if stream is None else stream, set()).add(seed)
            return draw(seed, *where)

        return spy

    monkeypatch.setattr(step_loss, "normal", spied(normal))
    monkeypatch.setattr(step_loss, "uniform", spied(uniform))
    monkeypatch.setattr(routing, "uniform", spied(uniform))
    monkeypatch.setattr(batches, "uniform", spied(uniform))
    monkeypatch.setattr(batches, "permutation", spied(permutation, RngStream.PERMUTATION))
    set_seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: drawn.setdefault("init", set()).add(seed) or set_seed(seed))
    pass_through = trainer.Trainer._forward_backward

    def breaks_once(self, batch):
        norm = pass_through(self, batch)
        return norm * float("nan") if self.state.rollbacks == 0 and batch.step == 5 else norm

    monkeypatch.setattr(trainer.Trainer, "_forward_backward", breaks_once)
    settings = [APART, "model.drop_path_rate=0.1", "train.steps=6", "train.skip_limit=1", "train.route={outer=1}"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings)
    order, noise = (RngStream.PERMUTATION, RngStream.FLIP), (RngStream.TIMESTEP, RngStream.NOISE)
    assert drawn["init"] == {1}
    for stream in order:
        assert drawn[stream] == {2, 2 + (1 << 32)}
    for stream in (*noise, RngStream.CLASS_DROPOUT, RngStream.DROP_PATH, RngStream.ROUTE):
        assert drawn[stream] == {3, 3 + (1 << 32)}
    assert drawn.keys() == {"init", *order, *noise, RngStream.CLASS_DROPOUT, RngStream.DROP_PATH, RngStream.ROUTE}
    assert read_run(run).read_recipe("run").train.seed == Seeds(init=1, order=2, noise=3)


@pytest.mark.parametrize(
    ("given", "others"), [([], 0), (["train.seed=7"], 7), (["train.seed={init=7,order=7,noise=1}"], 7)]
)
def test_one_of_a_recipes_seeds_is_set_by_itself(recipe, given, others):
    found = load_recipe(recipe, [*given, "train.seed.noise=3"]).train.seed
    assert found == Seeds(init=others, order=others, noise=3)


@pytest.mark.parametrize("seed", [True, "a", -1, 1.5, {"init": 1}, {"init": 1, "order": 2, "noise": 3, "data": 4}])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(DiscliError, match=r"train\.seed"):
        with_seed(seed)
