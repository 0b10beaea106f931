"""KID, precision and recall against their definitions, written out."""

import numpy as np
import pytest
import torch

from discli.evaluation.metric import FeatureBuffer
from discli.evaluation.metrics.kid import kernel_distance
from discli.evaluation.metrics.prc import precision_recall
from tests.evaluation.cases import gaussian_rows


def kid_by_definition(x, y):
    """Unbiased MMD^2 with (x.y / D + 1)^3, pair by pair (arXiv:1801.01401, eq. 4)."""

    def kernel(a, b):
        return float(a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return within_x + within_y - 2 * between


def inside_by_definition(points, centres, k=3):
    """Share of points within the distance of some centre to its k-th neighbour among the centres."""
    radii = []
    for i, centre in enumerate(centres):
        others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i)
        radii.append(others[k - 1])
    inside = [any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
    return np.mean(inside)


def test_kid_is_the_unbiased_estimate():
    x, y = gaussian_rows(24, 6, 0), gaussian_rows(24, 6, 1, shift=0.4)
    mean, _ = kernel_distance(x, y, subsets=5)
    assert mean == pytest.approx(kid_by_definition(x.double().numpy(), y.double().numpy()), rel=1e-4)


def test_kid_of_equal_distributions_is_about_zero_and_grows_with_a_shift():
    same = kernel_distance(gaussian_rows(400, 6, 0), gaussian_rows(400, 6, 1))[0]
    shifted = kernel_distance(gaussian_rows(400, 6, 0), gaussian_rows(400, 6, 1, shift=1.0))[0]
    assert abs(same) < 0.05 * shifted


def test_precision_and_recall_follow_the_definition_and_tell_which_is_which():
    reference = gaussian_rows(40, 4, 2)
    samples = torch.cat([gaussian_rows(20, 4, 3) * 0.2, gaussian_rows(10, 4, 4, shift=50.0)])
    precision, recall = precision_recall(samples, reference)
    assert precision == pytest.approx(inside_by_definition(samples.numpy(), reference.numpy()))
    assert recall == pytest.approx(inside_by_definition(reference.numpy(), samples.numpy()))
    assert precision <= 20 / 30 + 1e-6


def test_kept_rows_are_those_that_were_wanted_in_order():
    rows = torch.arange(10.0)[:, None]
    kept = FeatureBuffer(wanted=torch.tensor([0, 3, 4, 9]))
    for first in range(0, 10, 4):
        kept.update(rows[first : first + 4], first)
    assert kept.rows().flatten().tolist() == [0, 3, 4, 9]
