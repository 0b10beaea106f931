"""Runs that begin from a trained model, as a user meets them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import discli
from discli.cli.app import app
from discli.cost.disk import disk_needed
from discli.cost.memory import trained_parameters
from discli.runs.description import read_run
from discli.runtime.errors import DiscliError
from discli.sampling.load import merged
from discli.training.train import train
from tests.tiny_run import content

QUICK = ["train.holdout_every=0"]


@pytest.fixture(scope="module")
def source(tmp_path_factory, recipe, digits_file) -> Path:
    return train(recipe, data=digits_file, out=tmp_path_factory.mktemp("source") / "run", overrides=QUICK)


def _weights(run: Path, step: int, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:08d}" / f"{name}.safetensors")


LORA = ["model.lora.rank=2", 'train.freeze=["blocks.0.*"]']


@pytest.mark.parametrize("settings", [["model.depth=5"], LORA])
def test_it_resumes_to_the_bit_when_the_source_is_gone(settings, source, recipe, digits_file, tmp_path):
    settings = [*QUICK, *settings]
    theirs = shutil.copytree(source, tmp_path / "theirs")
    whole = train(recipe, data=digits_file, out=tmp_path / "whole", overrides=settings, begin_from=theirs)
    stopped = [*settings, "train.steps=2", "train.checkpoint_every=100"]
    half = train(recipe, data=digits_file, out=tmp_path / "half", overrides=stopped, begin_from=theirs)
    shutil.rmtree(half / "checkpoints" / "00000002")  # as if it had been killed before
    shutil.rmtree(theirs)
    resumed = train(recipe, data=digits_file, out=half, overrides=settings)
    assert content(resumed) == content(whole)
    assert read_run(resumed).began == read_run(whole).began is not None


@pytest.mark.parametrize(
    ("take", "model", "ema"), [("ema", "ema", "ema"), ("weights", "model", "model"), ("both", "model", "ema")]
)
def test_weights_averages_or_both_are_taken(take, model, ema, source, recipe, digits_file, tmp_path):
    settings = [*QUICK, "train.steps=1"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings, begin_from=source, take=take)
    for name, from_ in (("model", model), ("ema", ema)):
        ours, theirs = _weights(run, 0, name), _weights(source, 12, from_)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_averages_that_would_be_lost_at_the_first_step_are_not_taken(source, recipe, digits_file, tmp_path):
    settings = [*QUICK, 'train.ema={name="power",stds=[0.1],snapshot_every=4}']
    with pytest.raises(DiscliError, match="--take both"):
        train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings, begin_from=source, take="both")
    assert not (tmp_path / "run").exists()


def test_lora_trains_its_matrices_alone_and_frozen_parts_not_at_all(source, recipe, digits_file, tmp_path):
    settings = [*QUICK, *LORA, "train.steps=3", "train.ema.decay=0.5"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings, begin_from=source)
    before, after = _weights(run, 0), _weights(run, 3)
    asked = read_run(run).read_recipe("run.json")
    told, _ = disk_needed(asked.train, sum(map(torch.numel, after.values())), 1, trained_parameters(asked))
    written = sum(file.stat().st_size for file in (run / "checkpoints" / "00000003").glob("*.safetensors"))
    assert told < written < told + 60_000, "headers, and no optimizer's numbers of what is frozen"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith((".0.A", ".0.B")) and not name.startswith("blocks.0.") for name in changed)

    out = tmp_path / "merged.safetensors"
    done = CliRunner().invoke(app, ["export", str(run), "--to", "safetensors", "--merge", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert load_file(out).keys() == _weights(source, 12).keys()
    assert torch.equal(discli.sample(out, 4).pixels, discli.sample(run, 4).pixels)
    assert "began from" in CliRunner().invoke(app, ["info", str(out)]).output
    with pytest.raises(DiscliError, match="--merge"):
        merged(discli.load(out))

    # Its own beginning is told by whoever begins from it.
    on = train(recipe, data=digits_file, out=tmp_path / "on", overrides=[*settings, "train.freeze=[]"], begin_from=out)
    assert read_run(on).began.before.file == read_run(run).began.file


def test_what_was_begun_is_kept_and_another_source_refused(source, recipe, digits_file, tmp_path):
    settings = [*QUICK, "train.steps=1"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings, begin_from=source)
    kept = json.loads((run / "run.json").read_text())["began"]
    assert kept["source"] == str(source.resolve())
    assert {part["how"] for part in kept["parts"]} == {"taken"}
    train(recipe, data=digits_file, out=run, overrides=settings, begin_from=source)  # the same command resumes
    for other in ({"begin_from": tmp_path / "elsewhere"}, {"begin_from": source, "take": "both"}):
        with pytest.raises(DiscliError, match="began from"):
            train(recipe, data=digits_file, out=run, overrides=settings, **other)
    with pytest.raises(DiscliError, match="began from"):
        train(recipe, data=digits_file, out=source, overrides=QUICK, begin_from=run)


@pytest.mark.parametrize(
    ("settings", "begin", "words"),
    [
        ([], {"begin_from": "nowhere"}, "no model there"),
        ([], {"take": "both"}, "goes with --from"),
        (["model.embed_dim=32"], {}, "model.embed_dim"),
        (["model.lora.rank=2"], {"begin_from": None}, "--from"),
        (['train.freeze=["block.0.*"]'], {}, "train.freeze"),
        (['train.freeze=["*"]'], {}, "no parameter to train"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(settings, begin, words, source, recipe, digits_file, tmp_path):
    begin = {"begin_from": None if begin.get("take") else source} | begin
    with pytest.raises(DiscliError, match=words) as refused:
        train(recipe, data=digits_file, out=tmp_path / "run", overrides=[*QUICK, *settings], **begin)
    assert refused.value.status == 2
    assert not (tmp_path / "run").exists()
