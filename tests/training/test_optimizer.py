"""Learning rates against their closed forms, and who is decayed."""

import math

import pytest
import torch

from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.train import ConstantLr, CosineLr, InverseSqrtLr
from discli.training.optimizer import build_optimizer, lr_at, optimizer_tensors, restore_optimizer


def test_warm_up_rises_linearly_and_reaches_the_base():
    rates = [lr_at(ConstantLr(warmup_steps=4), 1.0, step, 100) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_ends_at_its_minimum_and_is_half_way_in_the_middle():
    schedule = CosineLr(warmup_steps=10, min_lr=0.1)
    assert lr_at(schedule, 1.0, 10, 111) == 1.0
    assert lr_at(schedule, 1.0, 60, 111) == pytest.approx(0.55)
    assert lr_at(schedule, 1.0, 110, 111) == pytest.approx(0.1)


def test_inverse_sqrt_halves_at_four_times_its_start():
    schedule = InverseSqrtLr(decay_after=1000)
    assert lr_at(schedule, 2.0, 1000, 10_000) == 2.0
    assert lr_at(schedule, 2.0, 4000, 10_000) == 1.0
    assert lr_at(schedule, 2.0, 3000, 10_000) == pytest.approx(2 / math.sqrt(3))


def _recipe():
    return parse_recipe(
        {
            "name": "t",
            "model": {"embed_dim": 16, "depth": 3, "num_classes": 2},
            "data": {"resolution": 8},
            "train": {"steps": 1, "weight_decay": 0.1},
        },
        "t",
    )


@pytest.mark.parametrize("steps", [0, 2])
def test_a_restored_optimizer_steps_as_the_one_that_was_saved(steps):
    model = DiS.from_recipe(_recipe())
    optimizer = build_optimizer(model, _recipe().train)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for _ in range(steps):
        optimizer.step()
    twin = DiS.from_recipe(_recipe())
    twin.load_state_dict(model.state_dict())
    restored = build_optimizer(twin, _recipe().train)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    restore_optimizer(twin, restored, saved)
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        ours.grad = theirs.grad.clone()
    optimizer.step()
    restored.step()
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_vectors_states_and_embeddings_are_not_decayed():
    recipe = _recipe()
    model = DiS.from_recipe(recipe)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in g["params"]} for g in build_optimizer(model, recipe.train).param_groups)
    assert decayed | kept == set(names.values())
    assert "blocks.0.mixer.in_proj.weight" in decayed
    for name in ("blocks.0.mixer.forward_scan.A_log", "blocks.0.norm.weight", "pos_embed", "class_embed.weight"):
        assert name in kept
