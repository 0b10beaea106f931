"""Every choice a recipe offers has one implementation that takes exactly its settings."""

import inspect
from typing import Any, get_args

import pytest

from discli.diffusion.guidance import SCALES
from discli.diffusion.objective import OBJECTIVES
from discli.diffusion.samplers import SAMPLERS
from discli.model.conditioning import CONDITIONINGS
from discli.model.mixer import MIXERS
from discli.model.order import ORDERS
from discli.model.skip import SKIPS
from discli.recipe import Recipe, diffusion, model, parse_recipe, sample
from discli.runtime.errors import DiscliError

# What the noun passes to every sibling, beside the Spec's own settings.
REGISTRIES: list[tuple[Any, dict[str, Any], set[str]]] = [
    (model.Skip, SKIPS, {"embed_dim"}),
    (model.Conditioning, CONDITIONINGS, {"embed_dim", "has_classes"}),
    (model.Mixer, MIXERS, {"model", "paths"}),
    (model.ScanOrder, ORDERS, {"side", "block"}),
    (sample.Sampler, SAMPLERS, {"schedule", "num_steps"}),
    (sample.ScaleSchedule, SCALES, set()),
]


def _specs(union: Any) -> dict[str, Any]:
    return {spec.model_fields["name"].default: spec for spec in get_args(get_args(union)[0])}


@pytest.mark.parametrize(("union", "registry", "common"), REGISTRIES)
def test_specs_and_implementations_match(union, registry, common):
    specs = _specs(union)
    assert specs.keys() == registry.keys()
    for name, spec in specs.items():
        settings = set(spec.model_fields) - {"name"}
        assert set(inspect.signature(registry[name]).parameters) == settings | common


def test_every_objective_has_its_three_functions():
    assert _specs(diffusion.Objective).keys() == OBJECTIVES.keys()
    for objective in OBJECTIVES.values():
        assert all(callable(getattr(objective, name)) for name in ("target", "read", "weight_of_x0_error"))


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
