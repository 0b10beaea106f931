"""Reading: any order, exact flips, and no file that is not whole."""

import pickle

import h5py
import numpy as np
import pytest
import torch

from discli.data.layout import ROWS_AT
from discli.data.store import open_store
from discli.data.writer import StoreWriter, partial_of
from discli.runtime.errors import DiscliError
from tests.data.files import VAE, contract, some_rows, write_store

RGB = contract()
LATENTS = contract(codec=VAE, dtype="float16")
BOTH = contract(codec=VAE, dtype="float16", flip_stored=True)


@pytest.fixture(params=["none", "ram"])
def cache(request):
    return request.param


@pytest.mark.parametrize("promise", [RGB, LATENTS, BOTH], ids=["rgb", "latents", "both"])
def test_samples_come_in_the_order_asked_for(promise, cache, tmp_path):
    rows = some_rows(20, promise)
    store = open_store(write_store(tmp_path / "a.h5", rows, promise), cache)
    order = np.array([3, 19, 0, 3])
    read = store.read(order, None)
    assert read.dtype == getattr(torch, promise.dtype)
    assert (read.numpy() == (rows[order, 0] if promise.flip_stored else rows[order])).all()
    assert len(store) == 20


def test_pixels_are_mirrored_left_to_right_where_asked(cache, tmp_path):
    rows = some_rows(6, RGB)
    store = open_store(write_store(tmp_path / "a.h5", rows, RGB), cache)
    read = store.read(np.array([5, 2]), np.array([True, False])).numpy()
    assert (read[0] == rows[5][..., ::-1]).all()
    assert (read[1] == rows[2]).all()
    assert (store.read(np.array([5])).numpy() == rows[5]).all(), "the file itself is untouched"


def test_latents_of_the_mirrored_image_are_picked_not_mirrored(cache, tmp_path):
    rows = some_rows(6, BOTH)
    store = open_store(write_store(tmp_path / "a.h5", rows, BOTH), cache)
    read = store.read(np.array([5, 2]), np.array([True, False])).numpy()
    assert (read[0] == rows[5, 1]).all()
    assert (read[1] == rows[2, 0]).all()


def test_latents_of_one_orientation_are_never_flipped(tmp_path):
    store = open_store(write_store(tmp_path / "a.h5", some_rows(2, LATENTS), LATENTS))
    store.read(np.array([0]), np.array([False]))
    with pytest.raises(AssertionError):
        store.read(np.array([0]), np.array([True]))


def test_labels_names_and_contract_come_back(tmp_path):
    labels = np.array([1, 0, 1])
    store = open_store(write_store(tmp_path / "a.h5", some_rows(3, RGB), RGB, labels))
    assert store.labels.dtype == np.int64
    assert store.labels.tolist() == [1, 0, 1]
    assert store.names == ["0", "1", "2"]
    assert store.skipped == []
    assert store.contract == RGB.model_copy(update={"num_samples": 3})


def test_an_unlabelled_file_has_no_labels(tmp_path):
    assert open_store(write_store(tmp_path / "a.h5", some_rows(3, RGB), RGB)).labels is None


def test_other_processes_map_the_file_themselves(cache, tmp_path):
    store = open_store(write_store(tmp_path / "a.h5", some_rows(200, RGB), RGB), cache)
    copied = pickle.dumps(store)
    assert len(copied) < 500
    assert (pickle.loads(copied).read(np.array([7])) == store.read(np.array([7]))).all()


def unfinished(path):
    with StoreWriter(path, RGB.model_copy(update={"num_samples": 3}), range(3), {}) as writer:
        writer.append(some_rows(2, RGB), 2)
    return path


def renamed_partial(path):
    partial_of(unfinished(path)).rename(path)


def unmarked(path):
    write_store(path, some_rows(3, RGB), RGB)
    with h5py.File(path, "r+") as file:
        file.attrs["finished"] = False


def foreign(path):
    with h5py.File(path, "w") as file:
        file["samples"] = [1, 2]


def cut(path):
    write_store(path, some_rows(300, RGB), RGB)
    path.write_bytes(path.read_bytes()[: ROWS_AT + 500])


def no_hdf5(path):
    path.write_text("hello")


def part(path):
    write_store(path, some_rows(3, RGB), contract(shard=(1, 4)))


def newer(path):
    write_store(path, some_rows(3, RGB), RGB)
    with h5py.File(path, "r+") as file:
        text = file["contract"][()].decode().replace('"crop":"adm"', '"crop":"new"')
        del file["contract"]
        file["contract"] = text


def replaced(name, content, **how):
    """A maker of a whole file in which one dataset, or attribute, is something else."""

    def make(path):
        write_store(path, some_rows(3, RGB), RGB, np.array([0, 1, 1]))
        with h5py.File(path, "r+") as file:
            holder = file.attrs if name in file.attrs else file
            del holder[name]
            if content is not None:
                holder.create(name, content) if holder is file.attrs else file.create_dataset(name, data=content, **how)

    return make


def linked(path):
    write_store(path, some_rows(3, RGB), RGB, np.array([0, 1, 1]))
    path.rename(path.with_name("other.h5"))
    write_store(path, some_rows(3, RGB), RGB, np.array([0, 1, 1]))
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file["labels"] = h5py.ExternalLink("other.h5", "/labels")


def stored_elsewhere(path):
    write_store(path, some_rows(3, RGB), RGB, np.array([0, 1, 1]))
    path.with_name("secret").write_bytes(np.array([0, 1, 1]).tobytes())
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file.create_dataset("labels", (3,), np.int64, external=[(str(path.with_name("secret")), 0, 24)])


def virtual(path):
    linked(path)
    with h5py.File(path, "r+") as file:
        del file["labels"]
        layout = h5py.VirtualLayout((3,), np.int64)
        layout[:] = h5py.VirtualSource("other.h5", "labels", (3,))
        file.create_virtual_dataset("labels", layout)


@pytest.mark.parametrize("make", [linked, stored_elsewhere, virtual])
def test_nothing_is_read_from_other_files_that_a_file_names(make, tmp_path):
    make(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["labels"][...].tolist() == [0, 1, 1], "HDF5 itself goes there"
    with pytest.raises(DiscliError, match="does not hold its labels"):
        open_store(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("make", "message", "remedy"),
    [
        (lambda path: None, "does not exist", "discli encode"),
        (unfinished, "is unfinished", "resumes"),
        (renamed_partial, "is unfinished", "resumes"),
        (unmarked, "is unfinished", "resumes"),
        (foreign, "discli encode did not write it", "Encode"),
        (no_hdf5, "not an HDF5 file", "discli encode"),
        (cut, r"cut short \(.* bytes", "Copy it again"),
        (part, "part 1 of 4", "--merge"),
        (newer, r"contract\.crop", "encode again"),
        (replaced("labels", np.array([0, 2, 1])), "corrupt .labels from 0 to 2, of 2 classes", "encode it again"),
        (replaced("labels", np.array([0, 1])), r"corrupt .labels are int64 \(2,\), of 3", "encode it again"),
        (replaced("samples", some_rows(2, RGB)), r"corrupt .samples are uint8 \(2, 3, 4, 4\)", "encode it again"),
        (replaced("samples", some_rows(3, RGB).astype("f4")), "corrupt .samples are float32", "encode it again"),
        (replaced("samples", some_rows(3, RGB), compression=1), "not stored in one piece", "encode it again"),
        (replaced("samples", None), "corrupt .it is not as discli", "encode it again"),
        (replaced("positions", None), "corrupt .it is not as discli", "encode it again"),
    ],
)
def test_a_file_that_is_not_whole_and_ours_is_refused_with_the_remedy(make, message, remedy, tmp_path):
    make(tmp_path / "a.h5")
    with pytest.raises(DiscliError, match=message) as refused:
        open_store(tmp_path / "a.h5")
    assert remedy in refused.value.hint
    assert "\n" not in refused.value.message
