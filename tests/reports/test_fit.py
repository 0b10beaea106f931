"""The verdict on losses that are made up, so that what they say is known."""

import numpy as np
import pytest

from discli import __version__
from discli.data.floor_file import Floor
from discli.reports.fit import fit_of, fit_plots, loss_gap
from tests.data.files import contract

SIGMA = [0.1, 0.3, 1.0, 3.0, 10.0]
FLOOR = [0.0, 0.0, 0.1, 0.3, 0.4]


def line(step: int, above: float, held_out: float = 0.0, error: float = 0.005) -> dict:
    """Losses this far above the floor; ``held_out`` that much more of it at little noise."""
    train = [least + above for least in FLOOR]
    more = [held_out, held_out, 0.0, 0.0, 0.0]
    found = {"step": step, "sigma": SIGMA, "mass": [0.2] * 5, "floor_scale": [1.0] * 5}
    for name, levels in (("train", train), ("held_out", list(np.add(train, more)))):
        found |= {
            f"levels_{name}": levels,
            f"levels_{name}_se": [error * 5**0.5] * 5,
            f"loss_{name}": float(np.mean(levels)),
            f"loss_{name}_se": error,
        }
    return found


def floor() -> Floor:
    return Floor(
        discli_version=__version__, data="a.h5", data_sha256="0", contract=contract(), mirrored=False,
        conditional=False, holdout=0.1, samples=10, queries=10, keys=10, sigmas=tuple(SIGMA), error=tuple(FLOOR),
        std_error=(0.001,) * 5,
    )  # fmt: skip


STEPS = (100, 200, 300, 400, 500, 600)


def test_still_falling_is_underfitting():
    fit = fit_of([line(step, 100 / step) for step in STEPS])
    assert fit.kind == "underfitting"
    assert "still falling" in fit.sentence
    assert fit.loss_gap is None


def test_alike_and_settled_is_generalising_from_the_step_where_it_settled():
    fit = fit_of([line(step, 0.05 + (step < 400)) for step in STEPS])
    assert (fit.kind, fit.since) == ("generalising", 400)


def test_settled_far_above_the_floor_where_that_is_most_of_the_loss_is_underfitting():
    lines = [line(step, 0.2) for step in STEPS]
    assert fit_of(lines).kind == "generalising"
    fit = fit_of(lines, floor())
    assert fit.kind == "underfitting"
    assert "larger network" in fit.sentence
    assert fit.noise[0] >= 1.0


def test_memorising_is_known_by_its_step_and_noise():
    lines = [line(step, 0.3 - step / 3000, max(0.0, (step - 300) / 500)) for step in STEPS]
    fit = fit_of(lines)
    assert (fit.kind, fit.since, fit.best) == ("memorising", 400, 300)
    assert fit.noise == (0.1, 0.3)
    assert "stop there" in fit.sentence
    assert fit_of(lines[:3]).kind != "memorising"


def test_a_difference_within_its_error_is_none():
    assert fit_of([line(step, 0.1, 0.2, error=0.05) for step in STEPS]).kind != "memorising"


def test_harder_held_out_samples_do_not_hide_that_others_are_learned():
    """The trained samples' loss falls, the held-out ones' does not; but they were easier from the start."""
    lines = [line(step, 0.3 - step / 3000, -0.05, error=0.05) for step in STEPS]
    assert fit_of(lines).kind != "memorising"
    for each in lines[1:]:
        each |= {"ahead": (each["step"] - 100) / 3000, "ahead_se": 0.005}
    assert (fit_of(lines).kind, fit_of(lines).since) == ("memorising", 200)
    assert "since step 100" in fit_of(lines).sentence
    for each in lines[1:]:
        each["ahead_se"] = 1.0
    assert fit_of(lines).kind != "memorising"


def test_the_gap_integrates_to_one_number_with_an_interval():
    gap = loss_gap(line(100, 0.07), floor())
    assert gap.gap == pytest.approx(0.07)
    assert gap.high - gap.gap == pytest.approx(gap.gap - gap.low)
    assert gap.low < 0.07 - 1.9 * 0.005
    assert fit_of([line(100, 0.07)], floor()).floor == pytest.approx(np.mean(FLOOR))


def test_plots_have_the_floor_where_it_is_known():
    lines = [line(step, 100 / step) for step in STEPS]
    for least, there in ((None, False), (floor(), True)):
        plots = fit_plots(lines, least)
        assert len(plots) == 2
        assert all((">floor<" in svg) is there for _, svg in plots)
        assert all("held out" in svg for _, svg in plots)


def test_edited_lines_are_left_out():
    good = line(100, 0.1)
    for key, value in (
        ("sigma", "x"),
        ("levels_train", [1.0]),
        ("loss_train", None),
        ("mass", [None] * 5),
        ("sigma", [0.0] * 5),
    ):
        bad = {**good, key: value}
        assert fit_of([bad]) is None
        assert fit_of([good, bad]).step == 100
        assert fit_plots([bad], None) == []
    assert fit_of([]) is None
