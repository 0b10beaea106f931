"""Previews and scores while training, against the same samples scored by hand."""

import pytest

from discli.evaluation.evaluate import evaluate
from discli.evaluation.features.random import RANDOM_FD
from discli.runs.logs import read_log
from discli.sampling.sample import sample
from discli.training.train import train
from tests.tiny_run import RECIPE, content

SETTINGS = [
    'train.score={every=4,n=16,features="random"}',
    "train.preview_every=12",
    "train.preview_count=4",
    "train.ema.decay=0.5",
    "sample.cfg_scale=1.5",
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_a_score_is_that_of_the_samples_of_the_same_seed(recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=SETTINGS)
    lines = read_log(run / "scores.jsonl")
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert len({line[RANDOM_FD] for line in lines}) == 3

    samples = sample(run, 16, seed=0, out=tmp_path / "samples")
    by_hand = evaluate(samples, features="random", bootstrap=0).scores[RANDOM_FD]
    assert lines[-1][RANDOM_FD] == pytest.approx(by_hand, rel=1e-6)


def test_scores_and_previews_change_nothing_and_a_run_killed_before_them_makes_up_for_it(
    recipe, digits_file, tmp_path, capsys
):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=SETTINGS)
    plain = train(recipe, data=digits_file, out=tmp_path / "plain", overrides=SETTINGS[3:])
    assert content(run) == content(plain)

    capsys.readouterr()
    scores, preview = run / "scores.jsonl", run / "previews" / "00000012.png"
    before = scores.read_bytes(), preview.read_bytes()
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    preview.unlink()
    train(recipe, data=digits_file, out=run, overrides=SETTINGS)
    assert (scores.read_bytes(), preview.read_bytes()) == before
    said = capsys.readouterr().err
    assert "parameters, finished: 12 steps" in said
    assert f"Drawing 4 images of step 12: {preview}" in said
