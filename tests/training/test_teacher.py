"""A teacher made of a data file's own labels."""

import copy
import shutil

import numpy as np
import pytest
import torch

from discli.data.store import Store
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from discli.training.teacher import Classifier, Lessons, learn, share_recognised, teach
from tests.cli.commands import discli
from tests.data.files import contract, some_rows, write_store


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def digits(digits_file, tmp_path):
    return shutil.copy(digits_file, tmp_path / "digits.h5")


def test_it_learns_classes_and_stores_its_features(digits):
    grid = teach(digits, epochs=12, flip=False, device="cpu")
    assert grid.accuracy > 0.4  # chance: 0.1
    store = Store(digits)
    assert store.contract.grids == (grid,)
    features = store.grids["own"].astype(np.float32)
    assert features.shape == (200, *grid.side, grid.channels)
    # What is stored tells classes apart: the nearest other digit by features is mostly of the same class.
    pooled = features.mean((1, 2))
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    nearest = (pooled @ pooled.T - 2 * np.eye(200)).argmax(1)
    assert (store.labels[nearest] == store.labels).mean() > 0.5


def test_by_seed_it_is_the_same_and_kept_it_trains_nothing(digits, tmp_path, capsys, monkeypatch):
    again, other = (shutil.copy(digits, tmp_path / name) for name in ("again.h5", "other.h5"))
    first = teach(digits, epochs=1, device="cpu")
    monkeypatch.setattr("discli.training.teacher.learn", None)
    assert teach(again, epochs=1, device="cpu") == first
    monkeypatch.undo()
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "elsewhere"))
    assert teach(other, epochs=1, device="cpu") == first
    assert again.read_bytes() == other.read_bytes() == digits.read_bytes()
    assert teach(shutil.copy(other, tmp_path / "third.h5"), name="own-1", epochs=1, seed=1, device="cpu") != first


def test_a_lesson_that_was_interrupted_goes_on_to_the_same_weights(digits):
    def student():
        torch.manual_seed(0)
        network = Classifier(3, Size(8, 8), 10)
        return network, torch.optim.AdamW(network.parameters(), 1e-3)

    lessons = Lessons(Store(digits), seed=0, flip=False, batch=64)
    whole, optimizer = student()
    saved = {}

    def save(epoch):
        if epoch == 1:
            saved.update(copy.deepcopy({"network": whole.state_dict(), "optimizer": optimizer.state_dict()}))

    learn(whole, lessons, 3, [optimizer], after_epoch=save)
    resumed, optimizer = student()
    resumed.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    learn(resumed, lessons, 3, [optimizer], first=2)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert share_recognised(resumed, lessons) == share_recognised(whole, lessons)


def test_another_teacher_of_the_same_name_is_refused_before_it_is_trained(digits, monkeypatch):
    first = teach(digits, epochs=1, device="cpu")
    monkeypatch.setattr("discli.training.teacher.learn", None)
    assert teach(digits, epochs=1, device="cpu") == first
    with pytest.raises(DiscliError, match="own already") as refusal:
        teach(digits, epochs=2, device="cpu")
    assert "--name" in refusal.value.hint


def test_a_damaged_kept_teacher_is_trained_again(digits, tmp_path):
    first = teach(digits, epochs=1, device="cpu")
    [kept] = (tmp_path / "cache" / "teachers").iterdir()
    kept.write_bytes(kept.read_bytes()[:-64])
    assert teach(digits, name="own-2", epochs=1, device="cpu").weights_sha256 == first.weights_sha256


@pytest.mark.parametrize(
    ("labels", "says"), [(None, "no labels"), (np.zeros(30, np.int64), "1 class"), (np.arange(30) % 2, "30 images")]
)
def test_files_without_classes_are_refused(labels, says, tmp_path, monkeypatch):
    monkeypatch.setattr("discli.training.teacher._FEWEST", 40)
    file = write_store(tmp_path / "a.h5", some_rows(30, contract()), contract(), labels)
    with pytest.raises(DiscliError, match=says) as refusal:
        teach(file, device="cpu")
    assert refusal.value.status == 2


@pytest.mark.parametrize("name", ["efficientnet-lite0", "a/b", ""])
def test_names_that_are_not_a_teachers_are_refused(name, digits):
    with pytest.raises(DiscliError, match="--name"):
        teach(digits, name=name, device="cpu")


def test_the_command_says_what_is_wrong_in_two_lines(tmp_path):
    write_store(tmp_path / "a.h5", some_rows(30, contract()), contract())
    done = discli("teacher", "a.h5", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
