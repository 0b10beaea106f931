"""A trained run over its sampling settings: every score is that of ``discli sample``, and none is computed twice."""

import json
import os
import shutil

import pytest
from PIL import Image

from discli.ablation import scorer
from discli.ablation import sweep as module
from discli.ablation.sweep import Sweep, parse_counts, parse_values, sweep
from discli.cli.sweep_table import print_sweep
from discli.evaluation.evaluate import evaluate, make_ref
from discli.runtime.errors import DiscliError
from discli.sampling.export import export_safetensors
from discli.sampling.load import load
from discli.sampling.sample import sample
from discli.training.train import train
from tests.cli.commands import discli
from tests.tiny_run import RECIPE

HOW = {"n": 8, "features": "random"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_file):
    folder = tmp_path_factory.mktemp("swept")
    (folder / "tiny.toml").write_text(RECIPE)
    average = 'train.ema={name="power",stds=[0.05,0.2],snapshot_every=3}'
    return train(folder / "tiny.toml", data=digits_file, out=folder / "run", overrides=[average])


@pytest.fixture(scope="module")
def swept(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "sweep"
    return out, sweep(run, cfg_scale=[1.0, 3.0], ema=[0.1, 0.2], steps=[2], out=out, **HOW)


def test_every_setting_is_scored_as_its_samples_are(run, swept, tmp_path):
    out, found = swept
    assert [(each.cfg_scale, each.ema, each.steps, each.nfe) for each in found.scores] == [
        (scale, std, 2, 2 if scale == 1 else 4) for std in (0.1, 0.2) for scale in (1.0, 3.0)
    ]
    assert len({each.score for each in found.scores}) == 4
    drawn = sample(out / "ema-0.1", 8, cfg_scale=3.0, steps=2, out=tmp_path / "s")
    assert evaluate(drawn, features="random", bootstrap=0).distance == found.scores[1].score
    assert Sweep.model_validate_json((out / "sweep.json").read_text()) == found
    assert Image.open(out / "map.png").size[0] > 300
    assert Image.open(out / "images.png").size[1] > 4 * 8


def test_the_best_is_confirmed_by_samples_that_did_not_choose_it(run, swept, tmp_path):
    out, found = swept
    assert found.best.score == min(each.score for each in found.scores)
    best = found.best
    how = {"cfg_scale": best.cfg_scale, "steps": best.steps, "seed": 1}
    fresh = sample(out / f"ema-{best.ema:g}", 8, out=tmp_path / "best", **how)
    again = evaluate(fresh, features="random", bootstrap=0).distance
    assert again == pytest.approx(found.best_fresh, rel=1e-9) != best.score
    own = sample(run, 8, out=tmp_path / "own", seed=1)
    assert evaluate(own, features="random", bootstrap=0).distance == pytest.approx(found.own.score, rel=1e-9)


def test_run_again_it_scores_only_what_is_new_wherever_it_lies(run, swept, tmp_path, monkeypatch):
    out, found = swept
    shutil.copytree(run, tmp_path / "moved")
    shutil.copytree(out, tmp_path / "out")
    scored = []
    real = evaluate
    monkeypatch.setattr(scorer, "evaluate", lambda images, *a, **k: scored.append(1) or real(images, *a, **k))
    settings = {"ema": [0.1, 0.2], "steps": [2], "out": tmp_path / "out"}
    again = sweep(tmp_path / "moved", cfg_scale=[1.0, 3.0], **settings, **HOW)
    assert (again.scores, scored) == (found.scores, [])
    sweep(tmp_path / "moved", cfg_scale=[1.0, 2.0, 3.0], **settings, **HOW)
    assert 2 <= len(scored) <= 3  # the new ones, and the best on fresh samples where it is one of them
    scored.clear()
    sweep(tmp_path / "moved", cfg_scale=[1.0, 3.0], **settings, features="random", n=9)
    assert len(scored) == 6  # another n is another score


def test_another_network_or_reference_at_the_same_place_is_scored_anew(run, swept, digits_file, tmp_path):
    out, found = swept
    settings = {"cfg_scale": [1.0, 3.0], "ema": [0.1], "steps": [2], "out": tmp_path / "out"}
    shutil.copytree(out, tmp_path / "out")
    overrides = ['train.ema={name="power",stds=[0.05,0.2],snapshot_every=3}', "train.seed=1"]
    other = train(run.parent / "tiny.toml", data=digits_file, out=tmp_path / "run", overrides=overrides)
    assert not {each.score for each in sweep(other, **settings, **HOW).scores} & {each.score for each in found.scores}

    reference = tmp_path / "ref.npz"
    make_ref(digits_file, reference, features="random")
    stamp = reference.stat()
    before = sweep(run, **settings, ref=reference, **HOW).scores
    make_ref(digits_file.parent / "all" / "3", reference, features="random")
    os.utime(reference, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert not {each.score for each in sweep(run, **settings, ref=reference, **HOW).scores} & {
        each.score for each in before
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "Nothing to sweep"),
        ({"steps": [4]}, "Nothing to sweep"),
        ({"ema": [0.1, 0.5]}, "--ema 0.5"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, tmp_path, settings, says):
    with pytest.raises(DiscliError, match=says):
        sweep(run, out=tmp_path / "out", **settings, **HOW)
    assert not (tmp_path / "out").exists()


def test_of_a_file_of_weights_it_is_written_here(tiny_run, digits_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    export_safetensors(load(tiny_run), "models/mine.safetensors")
    sweep("models/mine.safetensors", steps=[1, 2], ref=digits_file, **HOW)
    assert {path.name for path in tmp_path.iterdir()} == {"models", "mine-sweep"}
    assert (tmp_path / "mine-sweep" / "sweep.json").is_file()


def test_a_run_without_snapshots_is_refused(tiny_run, tmp_path):
    with pytest.raises(DiscliError, match="no snapshots"):
        sweep(tiny_run, ema=[0.05, 0.2], out=tmp_path / "out", **HOW)
    assert not (tmp_path / "out").exists()


def test_the_recipe_s_own_setting_may_be_the_best(run, tmp_path, monkeypatch):
    """It is then not said to be the best by chance alone."""
    own = load(run).recipe.sample
    right = module.swept
    monkeypatch.setattr(module, "swept", lambda ema, made, _: right(ema, made, abs(made.samples.steps - own.steps)))
    found = sweep(run, steps=[own.steps, own.steps + 1], out=tmp_path / "out", **HOW)
    assert found.best.steps == own.steps
    assert any("own setting" in line for line in found.in_words)
    assert not any("by chance" in line for line in found.in_words)


def test_the_command_prints_a_table_or_json(run, swept, tmp_path, capsys):
    print_sweep(swept[1])
    assert "Best of 4: guidance" in capsys.readouterr().out
    command = ["sweep", run, "--steps", "1,2", "-n", "8", "--features", "random", "--out", tmp_path / "out", "--json"]
    assert len(json.loads(discli(*command).stdout)["scores"]) == 2


@pytest.mark.parametrize(
    ("text", "values"),
    [("1:4", [1, 1.75, 2.5, 3.25, 4]), ("1:4:4", [1, 2, 3, 4]), ("2,1,2", [1, 2]), ("0.05:0.2:2", [0.05, 0.2])],
)
def test_values_are_a_range_or_a_list(text, values):
    assert parse_values(text, "--cfg-scale") == values


@pytest.mark.parametrize("text", ["", "4:1", "1:2:1", "a", "1:2:3:4", "-1,2", "nan,1", "1:2:x"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(DiscliError, match="not understood"):
        parse_values(text, "--cfg-scale")


@pytest.mark.parametrize("text", ["10.4,20", "0,4", "0.2:4", "a"])
def test_steps_are_whole_and_never_rounded_in_silence(text):
    assert parse_counts("10,20", "--steps") == [10, 20]
    assert parse_counts("1:4", "--steps") == [1, 2, 3, 4]
    with pytest.raises(DiscliError):
        parse_counts(text, "--steps")
