"""Share recognised, from folders of classes to the score card."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from discli.cli.eval_fid import eval_fid
from discli.evaluation.classes import asked_for
from discli.evaluation.evaluate import evaluate
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images

NAMES = ("blue", "green", "red")


def coloured(n, seed):
    """(n, 3, 12, 12) uint8, and classes: drawn images with one channel much brighter."""
    images, labels = drawn_images(n, 12, seed) // 3, torch.arange(n) % 3
    for image, label in zip(images, labels.tolist(), strict=True):
        image[2 - label] += 120
    return images, labels.tolist()


def folder_of(path, images, labels, names=NAMES):
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = path / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{index:04d}.png")
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("recognised") / "ref", *coloured(150, 0))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))


def recognised(samples, reference, **settings):
    return evaluate(samples, reference, features="random", metrics=["recognised"], bootstrap=0, **settings)


def test_right_classes_are_recognised_and_wrong_ones_are_not(reference, tmp_path):
    images, labels = coloured(60, 1)
    right = recognised(folder_of(tmp_path / "right", images, labels), reference)
    assert right.scores["recognised (random features)"] > 0.9
    assert right.distance is None
    assert right.warnings == ()  # which are about distances
    assert right.recognised.held_out.n == 15
    assert right.recognised.held_out.share > 0.8
    assert right.recognised.samples.low < right.scores["recognised (random features)"] <= right.recognised.samples.high

    half = [(label + 1) % 3 if index < 30 else label for index, label in enumerate(labels)]
    mixed = recognised(folder_of(tmp_path / "mixed", images, half), reference)
    assert mixed.scores["recognised (random features)"] == pytest.approx(
        right.scores["recognised (random features)"] - 0.5, abs=0.05
    )
    red = next(row for row in mixed.recognised.classes if row.name == "red")
    assert (red.mistaken_for[0].name, red.mistaken_for[0].n) == ("green", 10)


def test_classes_are_matched_by_name_and_only_those_asked_for_count(reference, tmp_path):
    images, labels = coloured(60, 1)
    some = [index for index, label in enumerate(labels) if label > 0]
    found = recognised(folder_of(tmp_path / "some", images[some], [labels[index] for index in some]), reference)
    assert found.scores["recognised (random features)"] > 0.9
    assert [row.name for row in found.recognised.classes] == ["green", "red"]
    assert found.recognised.held_out.n == 10


def test_the_probe_is_cached_by_content_and_labels(reference, tmp_path):
    samples = folder_of(tmp_path / "samples", *coloured(30, 1))
    first = recognised(samples, reference)
    [probe] = (tmp_path / "cache").rglob("*-probe.npz")
    stamp = probe.stat().st_mtime_ns
    assert recognised(samples, reference).scores == first.scores
    assert probe.stat().st_mtime_ns == stamp
    moved = shutil.copytree(reference, tmp_path / "moved")
    (moved / "blue").rename(moved / "x")
    (moved / "green").rename(moved / "blue")
    (moved / "x").rename(moved / "green")
    assert recognised(samples, moved).scores["recognised (random features)"] < 0.5
    assert len(list((tmp_path / "cache").rglob("*-probe.npz"))) == 2


def test_the_score_card_and_json_show_what_is_mistaken_for_what(reference, tmp_path, capsys):
    images, labels = coloured(30, 1)
    samples = folder_of(tmp_path / "samples", images, [(label + (i < 6)) % 3 for i, label in enumerate(labels)])
    card = tmp_path / "card.html"
    eval_fid(samples, reference, features="random", metrics="recognised", as_json=True, bootstrap=0, card=card)
    shown = json.loads(capsys.readouterr().out)["recognised"]
    assert shown["score"] == "recognised (random features)"
    assert shown["samples"]["n"] == 30
    page = card.read_text(encoding="utf-8")
    for fact in (
        "Classes recognised",
        "recognised (random features)",
        'alt="green taken for blue"',
        'alt="recognised as red"',
    ):
        assert fact in page
    eval_fid(samples, reference, features="random", metrics="recognised", bootstrap=0)
    assert "of held-out real images" in capsys.readouterr().out


@pytest.mark.slow
def test_all_leaves_it_out_where_there_are_no_classes(reference, tmp_path):
    plain = folder_of(tmp_path / "plain", coloured(30, 1)[0], [0] * 30, ("",))
    scores = evaluate(plain, plain, features="random", metrics=["all"], bootstrap=0).scores
    assert not any(name.startswith("recognised") for name in scores)
    with_classes = evaluate(reference, reference, features="random", metrics=["all"], bootstrap=0).scores
    assert "recognised (random features)" in with_classes


def test_what_has_no_or_other_or_one_class_is_refused(reference, tmp_path):
    images, _ = coloured(6, 1)
    plain = folder_of(tmp_path / "plain", images, [0] * 6, ("",))
    for pair in ((plain, reference), (reference, plain)):
        with pytest.raises(DiscliError, match="has no classes"):
            recognised(*pair)
    other = folder_of(tmp_path / "other", images, [0, 1] * 3, ("red", "violet"))
    with pytest.raises(DiscliError, match="no class violet"):
        recognised(other, reference)
    alike = SimpleNamespace(path="alike", labels=torch.zeros(9, dtype=torch.int64), class_names=("one",))
    with pytest.raises(DiscliError, match="one class"):
        asked_for(alike, range(9), alike)
