"""Every choice that a recipe offers has one implementation, which takes exactly its settings."""

import inspect
import subprocess
import sys

import pytest

from discli.recipe import Recipe, parse_recipe
from discli.recipe.choices import declared, implementation
from discli.recipe.diffusion import OBJECTIVES, TIMESTEPS, WEIGHTINGS, DiffusionSpec
from discli.recipe.model import CONDITIONINGS, MIXERS, SCAN_ORDERS, SKIPS
from discli.recipe.sample import SAMPLERS, SCALE_SCHEDULES
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError

# What is passed to every sibling, beside the Spec's own settings.
BUILT = [
    (SKIPS, {"embed_dim"}),
    (CONDITIONINGS, {"embed_dim", "has_classes"}),
    (MIXERS, {"model", "orders"}),
    (SAMPLERS, {"schedule", "settings"}),
    (OBJECTIVES, set()),
    (WEIGHTINGS, set()),
    (TIMESTEPS, set()),
]


@pytest.mark.parametrize(("spec", "common"), [(spec, common) for choices, common in BUILT for spec in choices.values()])
def test_specs_and_implementations_match(spec, common):
    made = implementation(spec)
    assert set(inspect.signature(made).parameters) == set(spec.model_fields) - {"name"} | common
    # The file as it is imported has the Spec that recipes are checked with, not another one like it.
    assert getattr(sys.modules[spec.__module__], spec.__name__) is spec


@pytest.mark.parametrize("order", SCAN_ORDERS.values())
def test_walks_visit_every_patch_once(order):
    for grid, block in ((Size(1, 1), 0), (Size(4, 4), 3), (Size(3, 5), 6), (Size(6, 8), 1)):
        assert all(sorted(walk) == list(range(grid.area)) for walk in order().walks(grid, block))


def _recipe(objective: str, sampler: str, steps: int, scored: int) -> Recipe:
    tree = {"name": "t", "model": {"embed_dim": 16, "depth": 3}, "data": {"resolution": 8}}
    tree |= {"train": {"steps": 1, "score": {"sampling_steps": scored}}, "diffusion": {"objective": objective}}
    return parse_recipe(tree | {"sample": {"sampler": sampler, "steps": steps}}, "t")


@pytest.mark.parametrize(("steps", "scored", "key"), [(2000, 10, "sample.steps"), (10, 2000, "sampling_steps")])
@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim"])
def test_no_more_steps_than_the_schedule_has_timesteps(sampler, steps, scored, key):
    with pytest.raises(DiscliError) as refused:
        _recipe("eps", sampler, steps, scored)
    assert key in refused.value.message


@pytest.mark.parametrize("sampler", ["euler", "heun", "euler-maruyama"])
def test_flows_time_has_no_steps_of_its_own(sampler):
    assert _recipe("flow", sampler, 2000, 2000).train.score.sampling_steps == 2000


@pytest.mark.parametrize("schedule", SCALE_SCHEDULES.values())
def test_scales_end_at_the_whole_scale(schedule):
    assert schedule().share(1.0) == 1.0


def test_what_is_declared_is_what_is_read():
    on_paper = declared("diffusion/samplers", "ddpm")
    assert [one.name for one in on_paper] == list(SAMPLERS)
    for one in on_paper:
        assert one.constants.get("fits", ("betas",)) == SAMPLERS[one.name].fits


def test_a_recipe_takes_a_spec_of_an_imported_file():
    from discli.model.skips.sums import GatedSkipSpec

    tree = {"name": "m", "model": {"preset": "dis-s"}, "data": {"resolution": 32}, "train": {"steps": 1}}
    recipe = parse_recipe(tree, "m")
    model = {**dict(recipe.model), "skip": GatedSkipSpec()}
    assert Recipe.model_validate({**dict(recipe), "model": model}).model.skip == GatedSkipSpec()


def test_recipes_do_not_import_torch_and_survive_a_pickle():
    code = """
import pickle, sys
from discli.recipe import load_recipe
recipe = load_recipe("quickstart", ["model.mixer.name=mamba2", "model.mixer.chunk=8"])
assert "torch" not in sys.modules
assert pickle.loads(pickle.dumps(recipe)) == recipe
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _sampled(objective: str, **sample) -> Recipe:
    tree = {"name": "t", "model": {"embed_dim": 16, "depth": 3}, "data": {"resolution": 8}, "train": {"steps": 1}}
    return parse_recipe(tree | {"diffusion": {"objective": objective}, "sample": sample}, "t")


@pytest.mark.parametrize(
    ("objective", "sample", "key"),
    [
        ("x0-flow", {"sampler": "heun", "timestep_spacing": "trailing"}, "timestep_spacing"),
        ("v", {"time_shift": 2.0}, "time_shift"),
        ("v", {"sampler": "unipc", "timestep_spacing": "ddim"}, "linspace"),
        ("v", {"sampler": "ddim", "timestep_spacing": "ddim", "steps": 333}, "250 or 334"),
        ("v", {"sampler": "ddim", "timestep_spacing": "sideways"}, "trailing"),
        ("flow", {"sampler": "heun", "time_shift": 0.0}, "time_shift"),
        ("flow", {"sampler": "ddim"}, "euler"),
    ],
)
def test_times_that_mean_nothing_are_refused(objective, sample, key):
    with pytest.raises(DiscliError) as refused:
        _sampled(objective, **sample)
    assert key in refused.value.message + refused.value.hint


def test_the_path_alone_has_a_shift():
    assert _sampled("x0-flow", sampler="heun", time_shift=2.0).sample.time_shift == 2.0
    tree = {"objective": "v", "time_shift": 2.0}
    with pytest.raises(ValueError, match="straight path"):
        DiffusionSpec.model_validate(tree)
