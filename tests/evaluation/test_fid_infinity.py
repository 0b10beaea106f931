"""The effect of n: extrapolation undoes the bias, the interval has its width."""

from threading import get_ident

import numpy as np
import torch

from discli.evaluation.fid_infinity import BLOCKS, SIZES, BlockMoments, fid_infinity
from discli.evaluation.frechet import frechet_distance
from discli.evaluation.moments import Moments


def measured(rows, seed=0):
    blocks = BlockMoments(len(rows), rows.shape[1], seed=seed)
    for first in range(0, len(rows), 37):
        blocks.update(rows[first : first + 37], first)
    return blocks


def standard(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def exactly_standard(dim):
    moments = Moments(dim)
    moments.update(torch.cat([torch.eye(dim), -torch.eye(dim)]).double() * ((2 * dim - 1) / 2) ** 0.5)
    return moments.gaussian()


def test_blocks_together_are_the_moments_of_everything():
    rows = standard(123, 6, 0)
    whole = Moments(6)
    whole.update(rows)
    blocks = measured(rows)
    assert sum(block.n for block in blocks.blocks) == 123
    assert max(block.n for block in blocks.blocks) - min(block.n for block in blocks.blocks) <= 1
    torch.testing.assert_close(blocks.gaussian().covariance, whole.gaussian().covariance)


def test_which_block_a_sample_joins_does_not_follow_its_index():
    blocks = BlockMoments(1000, 1)
    blocks.update(torch.arange(1000.0)[:, None], 0)
    means = [float(block.mean) for block in blocks.blocks]
    assert max(means) - min(means) < 400
    assert means != sorted(means)


def test_progress_is_told_in_the_callers_thread():
    callers = []
    fid_infinity(
        measured(standard(60, 2, 0)), exactly_standard(2), replicates=3, each=lambda: callers.append(get_ident())
    )
    assert callers == [get_ident()] * (SIZES + 3)


def test_extrapolation_comes_closer_to_the_truth_than_the_distance_at_n():
    # Samples and reference are the same distribution: the true distance is zero, what is found is bias.
    reference = exactly_standard(20)
    effects = [fid_infinity(measured(standard(600, 20, seed)), reference, replicates=2) for seed in range(8)]
    bias = np.mean([effect.distance for effect in effects])
    left = np.mean([effect.infinity for effect in effects])
    assert bias > 0.1
    assert abs(left) < 0.25 * bias


def test_the_interval_is_as_wide_as_distances_scatter_from_sample_to_sample():
    reference = exactly_standard(8)
    blocks = [measured(standard(400, 8, 100 + seed) * 1.3) for seed in range(30)]
    distances = [frechet_distance(b.gaussian(), reference) for b in blocks]
    effect = fid_infinity(blocks[0], reference, replicates=200)
    assert effect.low < effect.distance < effect.high
    # 1.96 standard deviations on either side, estimated from 20 blocks.
    assert 0.5 < (effect.high - effect.low) / (2 * 1.96 * np.std(distances)) < 2


def test_fewer_samples_than_dimensions_give_the_same_numbers_as_the_full_eigenproblem():
    reference = exactly_standard(60)
    blocks = measured(standard(BLOCKS * 2, 60, 3))
    effect = fid_infinity(blocks, reference, replicates=3)
    assert abs(effect.distance - frechet_distance(blocks.gaussian(), reference)) < 1e-6


def test_the_same_samples_give_the_same_interval():
    blocks, reference = measured(standard(100, 5, 4)), exactly_standard(5)
    assert fid_infinity(blocks, reference) == fid_infinity(blocks, reference)
