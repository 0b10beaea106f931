"""Held-out samples: which, that no step ever sees them, and the losses on them."""

import math

import numpy as np
import pytest

from discli.data.holdout import held_out, in_order, split
from discli.data.store import open_store
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training.batches import BatchPlan
from discli.training.train import train
from tests.data.files import contract, some_rows, write_store
from tests.tiny_run import RECIPE, arguments, content, together

HELD = (
    "data.holdout=0.2",
    "train.holdout_every=4",
    "train.holdout_n=48",
    "train.log_every=4",
    "train.ema.decay=0.5",
    "train.lr=3e-3",
)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_file):
    folder = tmp_path_factory.mktemp("held")
    (folder / "tiny.toml").write_text(RECIPE)
    return train(folder / "tiny.toml", data=digits_file, out=folder / "run", overrides=HELD)


def copy_with(file, out, change):
    """The same file with ``change`` made to its rows."""
    store = open_store(file)
    rows = np.array(store.rows)
    change(rows)
    out.write_bytes(file.read_bytes())
    start = out.read_bytes().index(np.ascontiguousarray(store.rows).tobytes())
    with out.open("r+b") as raw:
        raw.seek(start)
        raw.write(rows.tobytes())
    assert (open_store(out).rows == rows).all()
    return out


def test_the_share_is_by_address():
    out = held_out(50_000, 0.02)
    assert 900 < out.sum() < 1_100
    assert (held_out(60_000, 0.02)[:50_000] == out).all()
    assert (held_out(50_000, 0.04) >= out).all()
    assert not held_out(50_000, 0).any()
    chosen = np.flatnonzero(out)
    assert sorted(in_order(chosen)) == list(chosen)
    assert (in_order(chosen) != chosen).any()


def test_poisoned_held_out_samples_change_no_bit_of_a_run(whole, recipe, digits_file, tmp_path):
    out = held_out(len(open_store(digits_file)), 0.2)

    def poison(rows):
        rows[out] = 255 - rows[out]

    poisoned = copy_with(digits_file, tmp_path / "poisoned.h5", poison)
    run = train(recipe, data=poisoned, out=tmp_path / "run", overrides=HELD)
    assert content(run) == content(whole)
    before, after = (read_log(r / "holdout.jsonl")[-1] for r in (whole, run))
    assert before["loss_train"] == after["loss_train"]
    assert before["loss_held_out"] != after["loss_held_out"]
    # It is the held-out share that proves it: without one, the same change is seen.
    plain = [
        train(
            recipe, data=file, out=tmp_path / f"plain-{name}", overrides=["train.steps=4", "train.checkpoint_every=4"]
        )
        for name, file in (("a", digits_file), ("b", poisoned))
    ]
    assert content(plain[0], 4) != content(plain[1], 4)


def test_the_log_has_both_losses_by_noise_level(whole):
    lines = read_log(whole / "holdout.jsonl")
    assert [line["step"] for line in lines] == [4, 8, 12]
    line = lines[-1]
    assert line["loss_train"] < lines[0]["loss_train"]
    assert line["loss_held_out"] < lines[0]["loss_held_out"]
    assert len(line["sigma"]) == len(line["levels_train"]) == len(line["levels_held_out"]) == 24
    assert math.isclose(line["loss_train"], np.dot(line["mass"], line["levels_train"]), rel_tol=1e-9)
    assert line["loss_train"] > lines[-1]["loss_train_se"] > 0


def test_each_sample_is_compared_with_itself_at_the_first_time(whole):
    first, *later = read_log(whole / "holdout.jsonl")
    assert "ahead" not in first
    assert later
    for line in later:
        fell = {name: first[f"loss_{name}"] - line[f"loss_{name}"] for name in ("train", "held_out")}
        assert line["ahead"] == pytest.approx(fell["train"] - fell["held_out"], abs=1e-9)
        # What samples have in common falls out.
        assert 0 < line["ahead_se"] < math.hypot(line["loss_train_se"], line["loss_held_out_se"])


def test_neither_batch_nor_interruption_nor_what_is_measured_changes_it(whole, recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    train(recipe, data=digits_file, out=run, overrides=[*HELD, "train.steps=4"])
    train(recipe, data=digits_file, out=run, overrides=HELD)
    assert content(run) == content(whole)
    assert (run / "holdout.jsonl").read_bytes() == (whole / "holdout.jsonl").read_bytes()
    (run / "holdout.jsonl").unlink()  # killed between a checkpoint and its losses: the last is made up for
    train(recipe, data=digits_file, out=run, overrides=HELD)
    assert read_log(run / "holdout.jsonl") == read_log(whole / "holdout.jsonl")[-1:]

    never = train(recipe, data=digits_file, out=tmp_path / "never", overrides=[*HELD, "train.holdout_every=0"])
    assert content(never) == content(whole)
    assert not read_log(never / "holdout.jsonl")


@pytest.mark.slow
def test_two_processes_hold_out_the_same(whole, recipe, digits_file, tmp_path):
    together(*arguments(recipe, digits_file, tmp_path / "run", *HELD))
    mine, theirs = (read_log(run / "holdout.jsonl")[-1] for run in (tmp_path / "run", whole))
    assert mine["samples_held_out"] == theirs["samples_held_out"]
    assert mine["loss_held_out"] == pytest.approx(theirs["loss_held_out"], rel=1e-4)


def test_a_plan_over_some_samples_gives_those_and_all_of_them():
    some = np.array([3, 5, 8, 13, 21])
    seen = np.concatenate([BatchPlan(5, 2, seed=0, only=some).indices(step) for step in range(5)])
    assert sorted(seen) == sorted([*some, *some])


def test_what_leaves_too_little_is_refused_before_anything_is_written(recipe, digits_file, tmp_path):
    for share in (0.999, 0.0001):
        with pytest.raises(DiscliError, match="two are the least") as refused:
            train(recipe, data=digits_file, out=tmp_path / "run", overrides=[f"data.holdout={share}"])
        assert refused.value.status == 2
        assert refused.value.hint
        assert not (tmp_path / "run").exists()
    labels = np.where(held_out(60, 0.1), 1, 0)
    file = write_store(tmp_path / "a.h5", some_rows(60, contract()), contract(), labels)
    with pytest.raises(DiscliError, match="class 1"):
        split(open_store(file), 0.1, conditional=True)


def test_another_share_is_another_run(whole, digits_file):
    with pytest.raises(DiscliError, match=r"data\.holdout"):
        train(whole, data=digits_file, overrides=["data.holdout=0.3"])
