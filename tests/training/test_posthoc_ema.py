"""An average chosen after training, against one of that length that was kept while training."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from discli.runtime.errors import DiscliError
from discli.sampling.sample import sample
from discli.training.posthoc_ema import posthoc_ema
from discli.training.train import train
from tests.tiny_run import RECIPE

POWER = 'train.ema={name="power",stds=[0.05,0.1],snapshot_every=4}'


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_file):
    """40 steps, snapshots of two lengths at every fourth."""
    folder = tmp_path_factory.mktemp("posthoc")
    (folder / "tiny.toml").write_text(RECIPE)
    settings = ["train.steps=40", "train.log_every=40", "train.checkpoint_every=40"]
    return train(folder / "tiny.toml", data=digits_file, out=folder / "run", overrides=[*settings, POWER])


def _weights(run):
    tensors = load_file(run / "checkpoints" / "00000040" / "ema.safetensors")
    return torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])


def test_a_length_that_was_not_stored_is_rebuilt(run, digits_file, tmp_path):
    tracked = train(
        run.parent / "tiny.toml",
        data=digits_file,
        out=tmp_path / "tracked",
        overrides=["train.steps=40", "train.checkpoint_every=40", 'train.ema={name="power",stds=[0.07]}'],
    )
    rebuilt = posthoc_ema(run, 0.07, out=tmp_path / "rebuilt")
    stored, wanted, found = _weights(run), _weights(tracked), _weights(rebuilt)
    # What is left is float16, and sums over 40 steps where the formula has an integral.
    assert (found - wanted).norm() < 0.3 * (stored - wanted).norm()


def test_an_earlier_step_is_rebuilt_from_earlier_snapshots_alone(run, tmp_path):
    rebuilt = posthoc_ema(run, 0.07, step=20, out=tmp_path / "rebuilt")
    assert json.loads((rebuilt / "checkpoints/00000020/state.json").read_text())["snapshots"] == 10


def test_it_is_sampled_from_like_a_run_and_says_what_it_is(run, tmp_path):
    rebuilt = posthoc_ema(run, 0.08)
    assert rebuilt == run / "ema-0.08"
    manifest = json.loads((sample(rebuilt, 2, out=tmp_path / "samples") / "manifest.json").read_text())
    assert manifest["ema"]["stds"] == [0.08]
    assert manifest["step"] == 40


@pytest.mark.parametrize(("std", "step", "says"), [(0.3, None, "out of range"), (0.1, 21, "The nearest is of step 20")])
def test_what_cannot_be_rebuilt_is_refused(run, std, step, says):
    with pytest.raises(DiscliError, match=says):
        posthoc_ema(run, std, step)


def test_a_length_far_from_the_stored_ones_comes_with_a_warning(run, tmp_path, capsys):
    posthoc_ema(run, 0.25, out=tmp_path / "far")
    assert "take a std nearer to those stored" in capsys.readouterr().err.replace("\n", " ")


def test_what_was_frozen_is_not_rounded(run, digits_file, tmp_path):
    settings = ["train.steps=4", "train.checkpoint_every=4", 'train.freeze=["blocks.0.*"]', POWER]
    tuned = train(
        run.parent / "tiny.toml", data=digits_file, out=tmp_path / "tuned", overrides=settings, begin_from=run
    )
    before = load_file(run / "checkpoints/00000040/ema.safetensors")
    after = load_file(posthoc_ema(tuned, 0.07) / "checkpoints/00000004/ema.safetensors")
    frozen = [name for name in after if name.startswith("blocks.0.")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["blocks.1.norm.weight"], after["blocks.1.norm.weight"])


def test_a_run_without_snapshots_is_told_how_to_have_them(run, digits_file, tmp_path):
    plain = train(run.parent / "tiny.toml", data=digits_file, out=tmp_path / "plain", overrides=["train.steps=1"])
    with pytest.raises(DiscliError, match="no snapshots"):
        posthoc_ema(plain, 0.1)


def test_no_run_is_overwritten_but_one_that_was_rebuilt(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(DiscliError, match="would be overwritten"):
        posthoc_ema(run, 0.07, out=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    for std in (0.07, 0.08):
        posthoc_ema(run, std, out=tmp_path / "rebuilt")


def test_a_damaged_snapshot_is_named(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    damaged = next((copy / "snapshots").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(DiscliError, match=damaged.name):
        posthoc_ema(copy, 0.07)
