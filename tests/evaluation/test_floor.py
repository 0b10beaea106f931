"""The floor of data files: what it is of, where it is kept, what it refuses."""

import numpy as np
import pytest
import torch

from discli.data.floor_file import FloorOf, check_floor, find_floor, read_floor
from discli.data.store import open_store
from discli.evaluation import floor as room
from discli.evaluation.floor import floor_of
from discli.runtime.errors import DiscliError
from tests.data.files import VAE, contract, some_rows, write_store


@pytest.fixture
def pixels(tmp_path):
    labels = np.arange(60) % 2
    return write_store(tmp_path / "pixels.h5", some_rows(60, contract()), contract(), labels)


@pytest.fixture
def latents(tmp_path):
    promise = contract(codec=VAE, dtype="float32", flip_stored=True, resolution=8)
    rows = some_rows(40, promise)
    rows[:, :, 2:] = np.abs(rows[:, :, 2:]) / 10
    return write_store(tmp_path / "latents.h5", rows, promise, np.arange(40) % 2)


def at_most_noise(path, **settings) -> float:
    return floor_of(path, queries=2_000, again=True, **settings).error[-1]


def test_at_most_noise_it_is_the_variance_and_at_least_nothing(pixels):
    x0 = open_store(pixels).rows.reshape(60, -1) / 127.5 - 1
    both = np.concatenate([x0, (open_store(pixels).rows[..., ::-1] / 127.5 - 1).reshape(60, -1)])
    assert at_most_noise(pixels, conditional=False, mirrored=False) == pytest.approx(x0.var(0).mean(), rel=0.01)
    assert at_most_noise(pixels, conditional=False, mirrored=True) == pytest.approx(both.var(0).mean(), rel=0.01)
    of_classes = np.mean([x0[label::2].var(0).mean() for label in (0, 1)])
    found = floor_of(pixels, mirrored=False, queries=2_000)
    assert found.error[-1] == pytest.approx(of_classes, rel=0.01)
    assert found.error[0] < 1e-6
    assert [row.name for row in found.classes] == ["ant", "bee"]
    assert np.mean([row.error[-1] for row in found.classes]) == pytest.approx(of_classes, rel=0.01)


def test_latents_with_a_spread_keep_it(latents):
    """At the least noise only each latent's own Gaussian is left: tau^2 sigma^2 / (tau^2 + sigma^2)."""
    found = floor_of(latents, queries=4_000)
    std = open_store(latents).rows[:, :, 2:].astype(float) * VAE.scaling_factor
    sigma = found.sigmas[0]
    assert found.error[0] == pytest.approx((std**2 * sigma**2 / (std**2 + sigma**2)).mean(), rel=0.02)


def test_it_is_kept_by_what_it_depends_on(pixels, monkeypatch):
    first = floor_of(pixels, queries=64)
    monkeypatch.setattr(room, "errors", None)  # nothing is computed again
    assert floor_of(pixels, queries=64) == first
    [kept] = pixels.parent.glob("pixels.floor-*.json")
    assert read_floor(kept) == first
    with pytest.raises(TypeError):
        floor_of(pixels, queries=64, conditional=False)


def test_one_of_a_few_samples_does_not_stand_for_all(pixels):
    few = floor_of(pixels, queries=64, mirrored=False, keys=20)
    every = floor_of(pixels, queries=64, mirrored=False)
    assert (few.keys, every.keys) == (20, every.samples)
    assert floor_of(pixels, queries=64, mirrored=False, keys=20) == every


def test_a_changed_file_has_another_floor(pixels, tmp_path):
    floor_of(pixels, queries=64)
    of = FloorOf(mirrored=True, conditional=True, holdout=0.0, sigmas=floor_of(pixels, queries=64).sigmas)
    assert find_floor(open_store(pixels), of)
    rows = some_rows(60, contract())
    rows[0] += 1
    pixels.unlink()
    write_store(pixels, rows, contract(), np.arange(60) % 2)
    assert find_floor(open_store(pixels), of) is None


def test_shares_of_processes_make_the_same_floor(pixels, monkeypatch):
    whole = floor_of(pixels, queries=500, again=True)
    monkeypatch.setattr(room, "_ELEMENTS", 48 * 100)  # as if in five parts
    monkeypatch.setattr(room, "_KEYS", 16)
    parts = floor_of(pixels, queries=500, again=True)
    np.testing.assert_allclose(parts.error, whole.error, rtol=1e-4, atol=1e-6)


def test_held_out_samples_are_no_part_of_it(pixels):
    from discli.data.holdout import held_out

    out = held_out(60, 0.3)
    before = floor_of(pixels, holdout=0.3, queries=64)
    assert before.samples == 60 - out.sum()
    rows = some_rows(60, contract())
    rows[out] = 255 - rows[out]
    pixels.unlink()
    write_store(pixels, rows, contract(), np.arange(60) % 2)
    after = floor_of(pixels, holdout=0.3, queries=64, again=True)
    np.testing.assert_allclose(after.error, before.error, rtol=1e-6, atol=1e-12)


def test_a_subset_says_how_far_off_it_may_be(pixels):
    exact = floor_of(pixels, conditional=False, mirrored=False, queries=2_000)
    some = floor_of(pixels, conditional=False, mirrored=False, queries=2_000, keys=40, again=True)
    assert exact.bias is None
    assert some.bias is not None
    assert some.keys == 40
    for a, b, doubt in zip(exact.error, some.error, some.bias, strict=True):
        if a > 0.02:  # below, a few pairs of samples are all there is
            assert abs(a - b) < 0.15 * a + 2 * doubt


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"holdout": 0.99}, "to train on"),
        ({"holdout": 0.001}, "held out"),
    ],
)
def test_too_few_are_refused(pixels, settings, key):
    with pytest.raises(DiscliError, match=key) as refused:
        floor_of(pixels, **settings)
    assert refused.value.status == 2
    assert refused.value.hint
    assert not list(pixels.parent.glob("*floor*"))


def test_an_empty_class_one_sample_and_no_classes_are_refused(tmp_path):
    from discli.data.holdout import held_out

    labels = np.where(held_out(60, 0.1), 1, 0)
    path = write_store(tmp_path / "a.h5", some_rows(60, contract()), contract(), labels)
    with pytest.raises(DiscliError, match="class 1"):
        floor_of(path, holdout=0.1)
    assert floor_of(path, holdout=0.1, conditional=False, queries=16)
    one = write_store(tmp_path / "one.h5", some_rows(1, contract()), contract())
    with pytest.raises(DiscliError, match="two"):
        floor_of(one)
    with pytest.raises(DiscliError, match="no classes"):
        floor_of(write_store(tmp_path / "b.h5", some_rows(9, contract()), contract()), conditional=True)
    plain = contract(codec=VAE, dtype="float32")
    with pytest.raises(DiscliError, match="one orientation"):
        floor_of(write_store(tmp_path / "c.h5", some_rows(9, plain), plain), mirrored=True)


def test_a_floor_of_other_data_is_refused(pixels, latents):
    one, other = floor_of(pixels, queries=16), floor_of(latents, queries=16)
    of = FloorOf(mirrored=True, conditional=True, holdout=0.0, sigmas=one.sigmas)
    ours = open_store(pixels).contract
    check_floor(one, pixels, of, ours)
    for floor, wanted, promise, key in (
        (other, of, ours, "codec"),
        (one, of.model_copy(update={"mirrored": False}), ours, "mirrored"),
        (one, of.model_copy(update={"conditional": False}), ours, "conditional"),
        (one, of.model_copy(update={"holdout": 0.02}), ours, "holdout"),
        (one, of, ours.model_copy(update={"source_sha256": "other"}), "source_sha256"),
    ):
        with pytest.raises(DiscliError, match=key):
            check_floor(floor, pixels, wanted, promise)
    with pytest.raises(DiscliError, match="noise levels"):
        one.at([0.5])


def test_a_damaged_floor_is_refused(pixels):
    floor = floor_of(pixels, queries=16)
    [kept] = pixels.parent.glob("*.json")
    for text in ("", "{", "[]", '{"format": 2}', floor.model_dump_json().replace('"queries":16', '"queries":0')):
        kept.write_text(text)
        with pytest.raises(DiscliError, match="corrupt"):
            floor_of(pixels, queries=16)


def test_on_a_gpu_it_is_the_same(pixels):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    here, there = (floor_of(pixels, queries=500, again=True, device=name) for name in ("cpu", "cuda"))
    np.testing.assert_allclose(there.error, here.error, rtol=1e-3, atol=1e-6)
