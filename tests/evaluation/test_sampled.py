"""A run, its samples as PNGs, as .npz and as .zip: one score."""

import pytest
import torch

from discli.evaluation import sampled as eval_sampled
from discli.evaluation.card_images import CardImages
from discli.evaluation.evaluate import evaluate
from discli.runtime.errors import DiscliError
from discli.sampling.sample import sample


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))


def test_scores_are_the_same_however_the_samples_arrive(tiny_run, tmp_path):
    folders = [sample(tiny_run, 10, form=form, out=tmp_path / form) for form in ("png", "npz", "zip")]
    results = [evaluate(path, features="random", n=10, bootstrap=0) for path in (*folders, tiny_run)]
    first, *others = [result.distance for result in results]
    assert others == pytest.approx([first] * 3, rel=1e-4)  # a run's come in batches of another size
    for result in results:
        assert (result.samples.n, result.samples.nfe, result.samples.step) == (10, 10, 30)


def test_a_run_is_scored_with_any_n_and_class_by_class(tiny_run, tmp_path):
    few = evaluate(tiny_run, features="random", n=7, bootstrap=0, batch_size=3)
    stored = evaluate(sample(tiny_run, 7, out=tmp_path / "s"), features="random", bootstrap=0)
    assert few.distance == pytest.approx(stored.distance, rel=1e-4)
    assert evaluate(tiny_run, features="random", n=60, bootstrap=0, per_class=True).per_class


def test_a_score_card_draws_no_image_twice(tiny_run, monkeypatch):
    drawn: list[int] = []
    original = eval_sampled.latents
    monkeypatch.setattr(
        eval_sampled, "latents", lambda plan, groups, n: (drawn.extend(groups), original(plan, groups, n))[1]
    )
    card = CardImages()
    evaluate(tiny_run, features="random", n=10, bootstrap=0, card=card)
    assert drawn == [0, 1, 2]
    assert torch.equal(card.samples, sample(tiny_run, 10).pixels), "all ten, where there are fewer than a grid holds"


def test_a_run_is_no_reference(tiny_run, tmp_path):
    samples = sample(tiny_run, 4, out=tmp_path / "s")
    for run in (tiny_run, next((tiny_run / "checkpoints").iterdir())):
        with pytest.raises(DiscliError, match="is a run"):
            evaluate(samples, ref=run, features="random")
