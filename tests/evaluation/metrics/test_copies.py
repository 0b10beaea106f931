"""Copies among samples, planted and counted."""

import pytest
import torch

from discli.evaluation.card_images import Nearest
from discli.evaluation.metrics.copies import RATIO, nearness, share_interval
from tests.evaluation.cases import gaussian_rows


def test_planted_copies_are_counted_and_others_are_not():
    reference, samples = gaussian_rows(300, 32, 0).float(), gaussian_rows(100, 32, 1).float()
    samples[:30] = reference[:30] + 0.01 * samples[:30]
    ratios = nearness(samples, reference)
    assert int((ratios < RATIO).sum()) == 30
    assert (ratios[30:] > 0.5).all()


def test_a_copy_at_a_large_offset_is_not_lost_to_rounding():
    reference = gaussian_rows(50, 8, 0).float() + 1_000
    assert (nearness(reference[:5] + 1e-3, reference) < RATIO).all()


def test_equal_reference_images_make_no_copy_and_no_nan():
    reference = torch.zeros(4, 8)
    assert (nearness(torch.zeros(2, 8), reference) == 1).all()


@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(0, 100, 0, 0.0362), (5, 100, 0.0164, 0.1128), (9, 9, 0.6637, 1)]
)
def test_the_interval_is_clopper_and_pearsons(count, n, low, high):
    assert share_interval(count, n) == pytest.approx((low, high), abs=1e-4)


def test_the_card_shows_the_likest_copies_first():
    rows = gaussian_rows(40, 8, 0)
    queries = gaussian_rows(5, 8, 1)
    queries[3] = rows[7] + 1e-4
    nearest = Nearest(queries, 5)
    nearest.update(rows, 0)
    assert nearest.likest_copies()[0] == 3
    assert nearest.indices[3, 0] == 7
