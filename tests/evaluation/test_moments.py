"""Streamed moments: equal to the textbook's, in any order and any pieces."""

import numpy as np
import pytest
import torch

from discli.evaluation.moments import Gaussian, Moments, PerClassMoments
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import gaussian_rows


@pytest.mark.parametrize("batches", [(100,), (1, 99), (33, 33, 34), (1,) * 100])
def test_any_batching_gives_numpys_mean_and_covariance(batches):
    rows = gaussian_rows(100, 7, seed=0, shift=1e4)
    moments = Moments(7)
    for part in rows.split(batches):
        moments.update(part)
    found = moments.gaussian()
    exact = rows.double().numpy()
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-7, atol=1e-9)


def test_partial_results_merge_to_the_whole():
    rows = gaussian_rows(90, 5, seed=1)
    whole, parts = Moments(5), [Moments(5) for _ in range(4)]
    whole.update(rows)
    for part, chunk in zip(parts, rows.split((50, 0, 1, 39)), strict=True):
        if len(chunk):
            part.update(chunk)
    together = Moments(5)
    for part in parts:
        together.merge(part)
    assert together.n == whole.n
    torch.testing.assert_close(together.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.scatter, whole.scatter, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("n", "singular"), [(3, True), (5, True), (6, False), (None, False)])
def test_as_many_rows_as_dimensions_do_not_span_the_space(n, singular):
    assert Gaussian(torch.zeros(5), torch.eye(5), n).singular is singular
    if n is not None:
        moments = Moments(5)
        moments.update(torch.randn(n, 5, generator=torch.Generator().manual_seed(2)))
        rank = int(torch.linalg.matrix_rank(moments.gaussian().covariance))
        assert (rank < 5) is singular


def test_each_class_has_the_moments_of_its_own_rows():
    rows, labels = gaussian_rows(60, 3, 0), torch.arange(60) % 4
    classes = PerClassMoments(labels, 3)
    for first in range(0, 60, 7):
        classes.update(rows[first : first + 7], first)
    for label, found in classes.classes.items():
        alone = Moments(3)
        alone.update(rows[labels == label])
        torch.testing.assert_close(found.gaussian().covariance, alone.gaussian().covariance)


def test_a_thousand_classes_in_inceptions_dimensions_are_refused_before_they_fill_the_memory():
    with pytest.raises(DiscliError, match="1,000 classes in 2,048 dimensions take 34 GB"):
        PerClassMoments(torch.arange(1000), 2048)
