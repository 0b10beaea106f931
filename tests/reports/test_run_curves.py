"""A run's curves: none without numbers, and few points however long the run."""

import pytest

from discli.reports.run_curves import run_curves, thinned
from discli.runs.logs import finite_numbers


def test_what_is_no_number_is_left_out():
    values = [1.0, None, "x", float("nan"), True, 2]
    lines = [{"step": step, "loss": value} for step, value in enumerate(values)]
    assert finite_numbers([*lines, {"step": 9}], "loss") == [(0, 1.0), (5, 2.0)]


@pytest.mark.parametrize("count", [0, 1, 300, 301, 10_001])
def test_long_series_become_means_that_keep_the_mean_and_the_end(count):
    values = [(step, float(step % 7)) for step in range(count)]
    few = thinned(values)
    assert len(few) <= 300
    assert few[-1:] == values[-1:] or few[-1][0] == count - 1
    if count and count % len(few) == 0:
        assert sum(v for _, v in few) / len(few) == pytest.approx(sum(v for _, v in values) / count)


def test_a_long_run_says_that_its_points_are_means_and_makes_a_small_page():
    metrics = [{"step": 50 * i, "loss": 1 / (i + 1), "grad_norm": 1.0, "lr": 1e-4} for i in range(10_000)]
    drawn = dict(run_curves(metrics, [], {"FID": [(100, 3.0)]}))
    assert "Loss (means of 34 log lines)" in drawn
    assert "FID" in drawn
    assert not any("Images" in name for name in drawn)
    assert sum(map(len, drawn.values())) < 300_000


def test_nothing_logged_draws_nothing():
    assert run_curves([], [], {}) == []
    assert run_curves([{"step": 1, "loss": None}], [], {}) == []


def test_further_losses_have_curves_and_may_end():
    metrics = [{"step": i, "loss": 1.0, "align_loss": 0.5 if i < 3 else None} for i in range(6)]
    assert "Loss: align" in dict(run_curves(metrics, [], {}))
