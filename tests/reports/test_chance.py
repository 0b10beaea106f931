"""Intervals over seeds, against scipy's and figures worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from discli.reports.chance import Estimate, correlation, differences, estimate


def test_the_interval_is_students():
    values = [2.0, 3.0, 7.0, 4.5]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high), rel=1e-12)


def test_one_seed_has_no_interval():
    found = estimate([3.0])
    assert (found.low, found.high, str(found)) == (None, None, "3")


def test_differences_are_paired_by_seed():
    # Seeds differ by 10, the two sides by 1 in every seed: unpaired, nothing could be seen.
    a, b = {0: 1.0, 1: 11.1, 2: 21.0, 9: 500.0}, {0: 2.0, 1: 12.0, 2: 22.0}
    found = estimate(differences(a, b))
    low, high = stats.t.interval(0.95, 2, -29 / 30, stats.sem([-1.0, -0.9, -1.0]))
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((-29 / 30, low, high, 3))
    assert differences({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}) == [1.0]


def test_correlation_needs_three_points_that_vary():
    assert correlation([1, 2, 3], [6, 4, 2]) == pytest.approx(-1)
    assert correlation([1, 2], [2, 1]) is None
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1, 1, 2], [1, 2, 3]) is None


def test_a_mean_shows_as_many_decimals_as_its_interval_deserves():
    shown = [str(Estimate(mean, mean - half, mean + half, 3)) for mean, half in ((12.34, 1.53), (0.0966, 0.0023))]
    assert shown == ["12.3 ± 1.5", "0.0966 ± 0.0023"]
    assert str(Estimate(1234.6, 1200.0, 1269.2, 3)) == "1235 ± 35"


def test_a_difference_has_its_sign_and_the_decimals_of_its_interval():
    assert Estimate(-2.131, -2.34, -1.922, 3).as_difference() == "-2.13 (-2.34 to -1.92)"
    assert Estimate(-0.05, -11.0, 10.9, 2).as_difference() == "+0 (-11 to 11)"
    assert Estimate(0.0133, 0.01, 0.0166, 3).scaled(100).as_difference() == "+1.33 (1.00 to 1.66)"
    assert Estimate(2.13, None, None, 1).as_difference() == "+2.13"
