"""Random streams: the published Philox, and independence of everything but their address."""

import os
import subprocess
import sys

import pytest
import torch

from discli.recipe import parse_recipe
from discli.runtime.errors import DiscliError
from discli.runtime.rng import RngStream, normal, permutation, philox, uniform


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers that come with the authors' Random123 library.
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert [int(w) for w in words] == expected


def test_a_sample_draws_the_same_whatever_stands_beside_it():
    together = normal(3, RngStream.NOISE, 7, torch.arange(10), (3, 5, 5))
    alone = normal(3, RngStream.NOISE, 7, torch.tensor([4]), (3, 5, 5))
    assert torch.equal(together[4], alone[0])


def test_seed_stream_step_and_index_all_matter():
    base = uniform(1, RngStream.NOISE, 2, torch.tensor([3]), (64,))
    others = [
        uniform(2, RngStream.NOISE, 2, torch.tensor([3]), (64,)),
        uniform(1 << 32, RngStream.NOISE, 2, torch.tensor([3]), (64,)),
        uniform(1, RngStream.LATENT, 2, torch.tensor([3]), (64,)),
        uniform(1, RngStream.NOISE, 3, torch.tensor([3]), (64,)),
        uniform(1, RngStream.NOISE, 2, torch.tensor([4]), (64,)),
    ]
    assert all(not torch.equal(base, other) for other in others)


def test_normals_are_normal_and_uniforms_uniform():
    z = normal(0, RngStream.NOISE, 0, torch.arange(200), (1001,)).double().flatten()
    u = uniform(0, RngStream.TIMESTEP, 0, torch.arange(200), (1000,)).double().flatten()
    # Four standard errors of each moment at 200,000 draws.
    assert abs(z.mean()) < 0.009
    assert abs(z.var() - 1) < 0.013
    assert abs((z**4).mean() - 3) < 0.09
    assert abs((z[:-1] * z[1:]).mean()) < 0.009
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.0026
    assert abs(u.var() - 1 / 12) < 0.0007


def test_a_permutation_holds_every_index_once_and_differs_by_epoch():
    first, second = permutation(5, 0, 1000), permutation(5, 1, 1000)
    assert first.sort().values.tolist() == list(range(1000))
    assert (first == second).sum() < 20
    assert torch.equal(first, permutation(5, 0, 1000))


@pytest.mark.parametrize("seed", [-1, 2**64, 2**64 + 5])
def test_a_seed_of_more_than_64_bits_is_not_cut_to_another_ones(seed):
    for draw in (normal, uniform):
        with pytest.raises(ValueError, match="seed"):
            draw(seed, RngStream.NOISE, 0, torch.arange(2), (3,))
    with pytest.raises(ValueError, match="seed"):
        permutation(seed, 0, 5)


@pytest.mark.parametrize("step", [-1, 2**32])
def test_a_step_is_not_cut_either(step):
    with pytest.raises(ValueError, match="step"):
        normal(0, RngStream.NOISE, step, torch.arange(2), (3,))


def test_the_largest_seed_of_a_recipe_leaves_room_for_a_run_that_rolls_back():
    largest = 2**63 - 1
    tree = {"name": "t", "model": {"embed_dim": 16, "depth": 3}, "data": {"resolution": 8}}
    with pytest.raises(DiscliError):
        parse_recipe(tree | {"train": {"steps": 1, "seed": largest + 1}}, "t")
    seed = parse_recipe(tree | {"train": {"steps": 1, "seed": largest}}, "t").train.seed.noise
    drawn = [
        normal(seed + (rollbacks << 32), RngStream.NOISE, 0, torch.arange(2), (3,)) for rollbacks in (0, 1, 2**31 - 1)
    ]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


_DRAW_IN_ONE_LAUNCH = """
import torch
from discli.runtime import rng, rng_kernel

assert rng._one_launch_will_do(torch.device("cpu"))
cases = [(0, 0, 5, [0, 1, 2]), (2**64 - 1, 2**32 - 1, 1030, [7, 2**32 - 1]), (2**33 + 5, 1, 0, [3])]
for seed, step, n, index in cases:
    index = torch.tensor(index)
    expected = rng._bits_by_operations(seed, rng.RngStream.FLIP, step, index, n)
    found = rng_kernel.bits(seed, int(rng.RngStream.FLIP), step, index, n)
    assert found.shape == expected.shape and torch.equal(found, expected), (seed, step, n)
rng_kernel.bits = lambda seed, stream, step, index, n: torch.zeros(len(index), n, dtype=torch.int64)
rng._one_launch_will_do.cache_clear()
assert not rng._one_launch_will_do(torch.device("cpu"))
"""


@pytest.mark.slow
def test_one_launch_of_a_gpu_draws_the_same_bits():
    """The kernel under Triton's interpreter, which has to be asked for before Triton is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _DRAW_IN_ONE_LAUNCH], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
