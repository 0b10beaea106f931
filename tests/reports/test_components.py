"""Variance components against synthetic trials whose components are known."""

import math

import numpy as np
import pytest
from scipy import stats

from discli.reports import components as module
from discli.reports.components import components

NAMES = ("init", "order", "noise")


def scores(generator, shape, own, together, of_sampling, both):
    """(*factors, sampling) of a sum of normal numbers with these variances."""
    *sizes, _ = shape
    axes = len(shape)
    found = generator.normal(0, math.sqrt(together), (*sizes, 1)) + generator.normal(0, math.sqrt(both), shape)
    for axis, variance in enumerate((*own, *[None] * (axes - 1 - len(own)), of_sampling)):
        if variance is not None:
            size = [shape[axis] if i == axis else 1 for i in range(axes)]
            found = found + generator.normal(0, math.sqrt(variance), size)
    return 30 + found


@pytest.mark.parametrize(
    ("shape", "own", "together", "of_sampling", "both"),
    [
        ((4, 4, 4, 3), (0.5, 0.2, 0.1), 0.2, 0.02, 0.05),
        ((4, 4, 4, 3), (0.02, 0.0, 0.05), 1.0, 0.05, 0.1),  # networks that have little in common
        ((3, 6, 4), (1.0, 0.3), 0.1, 0.1, 0.3),
    ],
)
def test_intervals_hold_the_true_components_in_95_of_100_repetitions(
    shape, own, together, of_sampling, both, monkeypatch
):
    monkeypatch.setattr(module, "DRAWS", 2_000)
    generator, repetitions = np.random.default_rng(3), 150
    sampling = of_sampling + both
    truth = [*own, together, sampling]
    ratio = math.sqrt(sum(truth[:-1]) / sampling)
    held = {
        "deviation": np.zeros(len(truth)),
        "share": np.zeros(len(truth)),
        "mean": 0,
        "alone": 0,
        "ratio": 0,
        "whole": 0,
    }
    for _ in range(repetitions):
        found = components(scores(generator, shape, own, together, of_sampling, both), NAMES[: len(own)])
        for place, (part, variance) in enumerate(zip(found.parts, truth, strict=True)):
            held["deviation"][place] += part.deviation.low <= math.sqrt(variance) <= part.deviation.high
            held["share"][place] += part.share.low <= variance / sum(truth) <= part.share.high
        alone = found.parts[0].alone
        held["alone"] += alone.low <= math.sqrt(own[0] + together) <= alone.high
        held["whole"] += found.deviation.low <= math.sqrt(sum(truth)) <= found.deviation.high
        held["mean"] += found.mean.low <= 30 <= found.mean.high
        held["ratio"] += found.training_to_sampling.low <= ratio <= found.training_to_sampling.high
    for name, count in held.items():
        assert np.min(count) / repetitions >= 0.89, name  # 0.95 less three standard errors of such a share
    assert np.mean(held["deviation"]) / repetitions >= 0.93


def test_moments_are_unbiased_and_shares_are_a_whole():
    """The mean over repetitions of what is not cut at nothing."""
    generator = np.random.default_rng(1)
    shape, own = (4, 3, 3, 2), (0.6, 0.3, 0.2)
    design = module._design(shape)
    every = np.stack([scores(generator, shape, own, 0.4, 0.1, 0.2) for _ in range(4_000)])
    variances = module.mean_squares(every, design).mean(0) @ design.solved.T
    by_subset = dict(zip(design.subsets, variances, strict=False))
    assert [by_subset[(i,)] for i in range(3)] == pytest.approx(own, abs=0.04)
    assert by_subset[0, 1, 2] == pytest.approx(0.4, abs=0.02)
    assert [by_subset[0, 1], by_subset[0, 2], by_subset[1, 2]] == pytest.approx([0, 0, 0], abs=0.02)
    assert variances[-2:] == pytest.approx([0.1, 0.2], abs=0.02)
    found = components(every[0], NAMES)
    assert sum(part.share.value for part in found.parts) == pytest.approx(1)


def test_one_source_alone_is_students_interval():
    values = np.array([2.0, 3.0, 7.0, 4.5])
    found = components(values[:, None], ["init"])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.mean.low, found.mean.high) == pytest.approx((low, high))
    [part] = found.parts
    assert part.deviation.value == pytest.approx(values.std(ddof=1))
    chi = np.sqrt(3 / stats.chi2.ppf([0.975, 0.025], 3)) * values.std(ddof=1)
    assert (part.deviation.low, part.deviation.high) == pytest.approx(chi, rel=0.05)
    assert found.training_to_sampling is None


def test_scores_that_are_all_the_same_have_no_spread():
    found = components(np.full((2, 2, 2), 3.0), ["init", "noise"])
    assert (found.deviation.value, found.mean.value, found.mean.low) == (0, 3, 3)
    assert found.cv.value == 0
    assert components(np.zeros((2, 2, 2)), ["init", "noise"]).cv is None


def test_two_levels_beside_many_do_not_make_the_mean_surer():
    """Its interval held 88 of 100 by Satterthwaite's degrees of freedom alone."""
    generator, shape, held, repetitions = np.random.default_rng(0), (2, 10, 1), 0, 600
    sums = module._design(shape)
    for _ in range(repetitions):
        drawn = scores(generator, shape, (0.3, 0.1), 0.3, 0.0, 0.1)
        found = module._mean(drawn, sums, module.mean_squares(drawn, sums))
        held += found.low <= 30 <= found.high
    assert held / repetitions >= 0.93
