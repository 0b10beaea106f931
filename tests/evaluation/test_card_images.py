"""Neighbours found in a stream are the neighbours in the whole."""

import torch

from discli.evaluation.card_images import Nearest
from tests.evaluation.cases import gaussian_rows


def test_streaming_finds_the_nearest_of_all():
    queries, rows = gaussian_rows(4, 8, 0), gaussian_rows(101, 8, 1)
    nearest = Nearest(queries, 5)
    for first in range(0, 101, 13):
        nearest.update(rows[first : first + 13], first)
    distances = (queries.double()[:, None] - rows.double()[None]).norm(dim=2)
    expected, order = distances.sort(dim=1)
    torch.testing.assert_close(nearest.distances, expected[:, :5])
    assert torch.equal(nearest.indices, order[:, :5])


def test_a_copy_is_at_distance_zero():
    rows = gaussian_rows(30, 8, 2)
    nearest = Nearest(rows[17:18], 1)
    nearest.update(rows, 0)
    assert nearest.indices.item() == 17
    assert nearest.distances.item() == 0
