"""The CIFAR-10 classifier as a feature network: what it recognises, its name, and what its values depend on."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from discli.evaluation.evaluate import evaluate, make_ref
from discli.evaluation.features import cifar10
from discli.evaluation.features.cifar10 import CIFAR10_FD, WEIGHTS, Cifar10Features, read_classifier
from discli.evaluation.images import open_images
from discli.evaluation.npz import read_statistics
from discli.runtime.errors import DiscliError
from discli.runtime.rng import permutation
from discli.training.train import train
from tests.evaluation.cases import drawn_images
from tests.evaluation.test_evaluate import save_folder
from tests.tiny_run import RECIPE


@pytest.fixture(scope="module")
def network():
    return Cifar10Features()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))


def test_its_weights_are_small():
    assert WEIGHTS.stat().st_size < 1_000_000
    assert {tensor.dtype for tensor in load_file(WEIGHTS).values()} == {torch.float16}


@pytest.mark.slow
def test_it_recognises_the_images_that_were_held_out(shared):
    images = open_images(shared / "data" / "cifar10-train.zip", torch.device("cpu"), with_labels=True)
    held_out = sorted(permutation(0, 0, images.n)[: images.n // 10].tolist())
    classifier, _ = read_classifier(WEIGHTS)
    with torch.inference_mode():
        seen = [classifier(batch / 127.5 - 1).argmax(1) for batch in images.batches(held_out, 500)]
    recognised = (torch.cat(seen) == images.labels[held_out]).double().mean()
    with safe_open(WEIGHTS, "pt") as opened:
        assert recognised == pytest.approx(float(opened.metadata()["accuracy"]), abs=1e-3)
    assert recognised > 0.87


def test_an_image_has_the_same_features_whatever_stands_beside_it(network):
    images = drawn_images(19, 32, 0)
    together = network(images)["features"]
    assert together.shape == (19, 128)
    alone = torch.cat([network(image[None])["features"] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.testing.assert_close(network(images)["features"], together, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_images_of_other_sizes_are_brought_to_its_own(network):
    small = drawn_images(3, 32, 0)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    here, there = network(small)["features"], network(large)["features"]
    assert (here - there).norm() < 0.5 * (here - here.roll(1, 0)).norm()


def test_scores_bear_its_name_and_the_record_its_rule(tmp_path):
    folders = [save_folder(tmp_path / name, drawn_images(140, 16, seed)) for seed, name in enumerate("ab")]
    result = evaluate(*folders, features="cifar10", metrics=["fid", "kid"], bootstrap=0)
    assert next(iter(result.scores)) == CIFAR10_FD == "FD (CIFAR-10 classifier features), not FID"
    assert "KID (CIFAR-10 classifier features)" in result.scores
    assert result.convention is None
    assert cifar10.INPUT_RULE in result.network
    made = make_ref(folders[1], tmp_path / "ref.npz", features="cifar10")
    assert read_statistics(made).about["resize"] == cifar10.INPUT_RULE
    again = evaluate(folders[0], made, features="cifar10", bootstrap=0, batch_size=5)
    assert again.distance == pytest.approx(result.distance, rel=1e-3)


def test_bad_input_is_two_lines_and_status_2(network, tmp_path):
    small = save_folder(tmp_path / "small", drawn_images(4, 12, 0))
    text, other, wrong = (tmp_path / name for name in ("text", "other.safetensors", "wrong.safetensors"))
    text.write_text("no weights")
    save_file({"a": torch.zeros(1)}, other)
    save_file({name: torch.zeros(2) for name in load_file(WEIGHTS)}, wrong)
    cases = [
        ({}, "too small"),
        ({"weights": text}, "cannot be read"),
        ({"weights": other}, "does not hold"),
        ({"weights": wrong}, "cannot be read"),
        ({"weights": tmp_path / "no"}, "no such file"),
        ({"convention": "adm"}, "one resize of its own"),
        ({"precision": "bf16"}, "--precision"),
    ]
    for given, said in cases:
        with pytest.raises(DiscliError, match=said) as raised:
            evaluate(small, small, features="cifar10", **given)
        assert raised.value.status == 2
        assert raised.value.hint


def test_a_training_that_it_could_not_score_is_refused_before_it_is_written(digits_file, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    score = "train.score={every=4,n=8,features='cifar10'}"
    with pytest.raises(DiscliError, match="8x8 px are too small"):
        train(tmp_path / "tiny.toml", data=digits_file, out=tmp_path / "run", overrides=[score], dry_run=True)
    assert not (tmp_path / "run").exists()
