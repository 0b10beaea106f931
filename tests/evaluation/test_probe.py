"""The probe: what it learns, what it holds out, and that the stream's pieces do not matter."""

import numpy as np
import pytest
import torch

from discli.evaluation.probe import ProbeFit, held_out, read_probe, wilson, write_probe


def rows_of_three(n, seed):
    """(n, 12) and classes: three clouds, far apart in the first two directions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    rows = torch.randn(n, 12, generator=generator)
    rows[:, :2] += centres[labels]
    return rows, labels


def fitted(rows, labels, size):
    fit = ProbeFit(labels, 3, rows.shape[1])
    for first in range(0, len(rows), size):
        fit.update(rows[first : first + size], first)
    return fit.fit()


def test_classes_that_lie_apart_are_recognised_and_equal_ones_are_not():
    rows, labels = rows_of_three(600, 0)
    probe = fitted(rows, labels, 64)
    others, classes = rows_of_three(300, 1)
    assert (probe(others).argmax(dim=1) == classes).double().mean() > 0.98
    assert probe.confusion.sum() == held_out(labels).sum() == pytest.approx(60, abs=2)
    noise = fitted(torch.randn(600, 12, generator=torch.Generator().manual_seed(2)), labels, 64)
    assert noise.confusion.diagonal().sum() / noise.confusion.sum() < 0.6


def test_pieces_and_processes_change_nothing_but_rounding():
    rows, labels = rows_of_three(500, 0)
    whole = fitted(rows, labels, 500)
    torch.testing.assert_close(fitted(rows, labels, 7).weights, whole.weights)
    first, second = ProbeFit(labels, 3, 12), ProbeFit(labels, 3, 12)
    first.update(rows[:190], 0)
    second.update(rows[190:], 190)
    first.merge(second)
    merged = first.fit()
    torch.testing.assert_close(merged.weights, whole.weights)
    assert torch.equal(merged.confusion, whole.confusion)


def test_a_tenth_of_each_class_is_held_out_one_of_two_none_of_one():
    labels = torch.tensor([0] * 100 + [1] * 2 + [2])
    aside = held_out(labels)
    assert [int(aside[labels == i].sum()) for i in range(3)] == [10, 1, 0]
    assert torch.equal(aside, held_out(labels))
    assert held_out(torch.arange(200_000) % 4).sum() == 10_000


def test_a_class_without_images_is_never_recognised():
    rows, labels = rows_of_three(200, 0)
    probe = ProbeFit(labels.clamp(max=1), 3, 12)
    probe.update(rows, 0)
    assert set(probe.fit()(rows).argmax(dim=1).tolist()) == {0, 1}


def test_wilsons_interval_as_published():
    # Newcombe, 1998, "Two-sided confidence intervals for the single proportion", table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_it_is_stored_and_damage_makes_it_absent(tmp_path):
    probe = fitted(*rows_of_three(200, 0), 64)
    path = tmp_path / "a" / "probe.npz"
    write_probe(path, probe)
    again = read_probe(path)
    assert torch.equal(again.weights, probe.weights)
    assert torch.equal(again.confusion, probe.confusion)
    path.write_bytes(path.read_bytes()[:500])
    assert read_probe(path) is None
    np.savez(path, weights=np.array([{}], dtype=object))
    assert read_probe(path) is None
    assert read_probe(tmp_path / "none.npz") is None
