"""The Frechet distance against closed forms, scipy's matrix square root and torch-fidelity."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric

from discli.evaluation.frechet import FrechetTo, frechet_distance, square_root_factor
from discli.evaluation.moments import Gaussian, Moments
from tests.evaluation.cases import gaussian_rows


def gaussian_of(rows):
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return moments.gaussian()


def test_commuting_covariances_give_the_closed_form():
    a = Gaussian(torch.tensor([0.0, 1.0, 2.0]).double(), torch.diag(torch.tensor([1.0, 4.0, 9.0]).double()), None)
    b = Gaussian(torch.tensor([1.0, 1.0, 0.0]).double(), torch.diag(torch.tensor([4.0, 4.0, 0.25]).double()), None)
    # sum of (mean difference)^2 + (std difference)^2
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 0 + 2.5**2, abs=1e-12)


def test_equals_the_matrix_square_root_formula():
    a, b = gaussian_of(gaussian_rows(400, 12, 0)), gaussian_of(gaussian_rows(300, 12, 1, shift=0.3))
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    gap = (a.mean - b.mean).numpy()
    expected = gap @ gap + np.trace((a.covariance + b.covariance).numpy() - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_equals_torch_fidelitys_distance():
    a, b = gaussian_of(gaussian_rows(500, 30, 2)), gaussian_of(gaussian_rows(500, 30, 3, shift=-0.2))
    theirs = fid_statistics_to_metric(*({"mu": g.mean.numpy(), "sigma": g.covariance.numpy()} for g in (a, b)), False)
    assert frechet_distance(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize("n", [8, 40, 500])
def test_equal_statistics_are_at_distance_zero_even_where_singular(n):
    one = gaussian_of(gaussian_rows(n, 64, 4))
    assert abs(frechet_distance(one, one)) < 1e-9 * float(one.covariance.trace())


@pytest.mark.parametrize(("n", "m"), [(10, 500), (500, 10), (10, 12)])
def test_singular_covariances_agree_with_torch_fidelity_and_either_order(n, m):
    a, b = gaussian_of(gaussian_rows(n, 32, 5)), gaussian_of(gaussian_rows(m, 32, 6))
    theirs = fid_statistics_to_metric(*({"mu": g.mean.numpy(), "sigma": g.covariance.numpy()} for g in (a, b)), False)
    scale = float(a.covariance.trace() + b.covariance.trace())
    assert abs(frechet_distance(a, b) - frechet_distance(b, a)) < 1e-9 * scale
    assert abs(frechet_distance(a, b) - theirs["frechet_inception_distance"]) < 1e-5 * scale


def test_a_subspace_that_holds_the_samples_changes_nothing():
    reference, rows = gaussian_of(gaussian_rows(300, 40, 7)), gaussian_rows(20, 40, 8)
    everything = gaussian_of(rows)
    span = torch.linalg.qr(square_root_factor(everything.covariance)).Q
    assert span.shape == (40, 19)
    within, full = FrechetTo(reference, within=span), FrechetTo(reference)
    for some in (everything, gaussian_of(rows[:9]), gaussian_of(rows[5:])):
        assert within.distance(some) == pytest.approx(full.distance(some), rel=1e-6)
