"""A trial step tells how long a run takes, and leaves no trace."""

import time
from dataclasses import replace

import pytest
import torch

from discli.recipe import parse_recipe
from discli.training.timed_step import Trial, describe_length, try_here, try_step

CPU = torch.device("cpu")


def recipe(**changed):
    model = {"embed_dim": 16, "depth": 3, "num_classes": 10} | changed.pop("model", {})
    train = {"steps": 100, "batch_size": 8, "preview_every": 0} | changed.pop("train", {})
    return parse_recipe({"name": "t", "model": model, "data": {"resolution": 8}, "train": train, **changed}, "t")


def test_it_times_the_step_and_takes_seconds():
    started = time.monotonic()
    trial = try_step(recipe(), CPU)
    assert time.monotonic() - started < 60  # kernels compile once
    assert 0 < trial.per_image < 1
    assert 0 < trial.per_update < 1
    assert 1 <= trial.images <= 8


def test_torchs_random_state_and_switches_are_as_before():
    before = torch.random.get_rng_state(), torch.is_grad_enabled(), torch.get_num_threads()
    try_step(recipe(), CPU)
    after = torch.random.get_rng_state(), torch.is_grad_enabled(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_it_tries_one_of_the_processes_that_would_share_the_cores(monkeypatch):
    monkeypatch.setattr("discli.training.cores.usable_cores", lambda: 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trial = try_here(recipe(train={"batch_size": 32}), CPU)
        assert torch.get_num_threads() == 2
        alone = try_here(recipe(train={"batch_size": 32}, data={"resolution": 8, "cache": "ram"}), CPU)
    finally:
        torch.set_num_threads(before)
    assert (trial.processes, alone.processes) == (2, 1)
    assert trial.images <= 16
    assert trial.per_step(32) == pytest.approx(16 * trial.per_image + trial.per_update)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": {"mixer": ["mamba", "attention"], "grid_conv": "depthwise", "head_conv": "residual"}},
        {"model": {"num_classes": 0}},
        {"diffusion": {"objective": "flow"}, "sample": {"sampler": "euler"}},
        {"train": {"steps": 1, "batch_size": 1, "ema": "power"}},
    ],
)
def test_whatever_can_be_trained_can_be_tried(changed):
    assert try_step(recipe(**changed), CPU).per_image > 0


def test_a_deep_network_is_told_from_a_few_of_its_blocks():
    """41 blocks take about eight times as long as 5, on a machine that may do other things meanwhile."""
    few, many = (try_step(recipe(model={"embed_dim": 64, "depth": depth}), CPU) for depth in (5, 41))
    assert 3 < many.per_image / few.per_image < 25


def test_what_a_training_saves_its_previews_do_not():
    """Patches that skip blocks do so in training alone."""
    route = {"share": 0.9, "outer": 1}
    plain, routed = (try_step(recipe(model={"depth": 9}, train=train), CPU) for train in ({}, {"route": route}))
    assert plain.per_image == pytest.approx(3 * plain.per_forward)
    assert routed.per_image < 2 * routed.per_forward


def test_the_whole_counts_steps_and_previews():
    trial = Trial(per_image=0.5, per_forward=0.25, per_update=1.0, images=4)
    assert trial.per_step(8) == 5.0
    assert trial.whole(recipe()) == 500.0
    assert trial.whole(recipe(), steps=10) == 50.0
    assert replace(trial, processes=2).whole(recipe()) == 300.0
    seen = recipe(train={"preview_every": 50, "preview_count": 4}, sample={"steps": 6, "cfg_scale": 2.0})
    assert trial.whole(seen) == pytest.approx(500.0 + 2 * 4 * 6 * 2 * 0.25)


def test_epochs_stand_beside_steps():
    assert describe_length(2_000, 64, 300) == "2,000 steps of 64: 128,000 images, 427 epochs of 300"
    assert "1.5 epochs" in describe_length(3, 50, 100)
    assert "epoch" not in describe_length(3, 50)
