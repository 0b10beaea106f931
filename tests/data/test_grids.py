"""Features beside the samples: whole or not there, whenever the process dies, and the same after a merge."""

import importlib.util
import os
import shutil

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from discli.data.autoencoders import load_codec
from discli.data.encode import encode
from discli.data.features import efficientnet_lite0 as lite0
from discli.data.grids import add_features, write_grid
from discli.data.layout import open_to_grow
from discli.data.merge import lacks_features, merge_parts
from discli.data.shards import part_of as part
from discli.data.store import Store
from discli.recipe.contract import FeatureGrid
from discli.runtime.errors import DiscliError
from tests.cli.commands import discli
from tests.data.files import contract, some_rows, write_store
from tests.data.test_merge import ROWS, write_part

GRID = FeatureGrid(name="net", network="numbers", weights_sha256="1", input_size=4, side=2, channels=3)
installed = pytest.mark.skipif(importlib.util.find_spec(lite0.PACKAGE) is None, reason=lite0.INSTALL)


def numbers(first: int = 0):
    """Features that tell sample and place."""

    def see(rows: range) -> np.ndarray:
        flat = np.arange(12 * (rows.start + first), 12 * (rows.stop + first))
        return flat.reshape(-1, 2, 2, 3).astype(np.float16)

    return see


@pytest.fixture
def file(tmp_path):
    labels = np.arange(20) % 2
    return write_store(tmp_path / "a.h5", some_rows(20, contract()), contract(), labels)


def test_features_are_added_and_all_else_stays(file):
    before = Store(file)
    samples, labels, names = before.read(np.arange(20)), before.labels, before.names
    write_grid(file, GRID, numbers(), 8)
    after = Store(file)
    assert after.contract.grids == (GRID,)
    assert after.contract.settings() == before.contract.settings()
    assert torch.equal(after.read(np.arange(20)), samples)
    assert (after.labels == labels).all()
    assert after.names == names
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.h5"]
    write_grid(file, GRID.model_copy(update={"name": "other"}), numbers(5), 8)
    assert Store(file).read_grid("net", np.array([7])).flatten().tolist() == list(range(84, 96))
    assert Store(file).read_grid("other", np.array([2])).flatten().tolist() == list(range(84, 96))


def test_the_mirrored_image_has_mirrored_features(file):
    write_grid(file, GRID, numbers(), 8)
    plain = Store(file).read_grid("net", np.array([3, 1]))
    mirrored = Store(file).read_grid("net", np.array([3, 1]), np.array([False, True]))
    assert torch.equal(mirrored[0], plain[0])
    assert torch.equal(mirrored[1], plain[1].flip(1))
    assert not torch.equal(mirrored[1], plain[1])


@pytest.mark.parametrize("dies_at", [0, 8, 16])
def test_killed_it_leaves_the_file_and_goes_on(dies_at, file, tmp_path, monkeypatch):
    """A child dies without any cleaning up, as by SIGKILL, while it computes a batch."""
    monkeypatch.setattr("discli.data.grids._SECONDS_BETWEEN_COMMITS", 0.0)
    undisturbed = shutil.copy(file, tmp_path / "b.h5")
    write_grid(undisturbed, GRID, numbers(), 8)
    before = file.read_bytes()
    child = os.fork()
    if not child:
        try:
            write_grid(file, GRID, lambda rows: os._exit(9) if rows.start == dies_at else numbers()(rows), 8)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert file.read_bytes() == before
    with pytest.raises(DiscliError, match="unfinished"):
        Store(file.with_name("a.h5.features.partial"))
    asked = []
    write_grid(file, GRID, lambda rows: asked.append(rows.start) or numbers()(rows), 8)
    assert asked == list(range(dies_at, 20, 8))
    assert file.read_bytes() == undisturbed.read_bytes()
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*.journal"))


def test_what_is_written_in_parts_is_written_whole(file, tmp_path, monkeypatch):
    undisturbed = shutil.copy(file, tmp_path / "b.h5")
    write_grid(undisturbed, GRID, numbers(), 8)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: pwrite(descriptor, data[:7], at))
    write_grid(file, GRID, numbers(), 8)
    assert file.read_bytes() == undisturbed.read_bytes()


def test_hdf5_writes_nothing_once_features_are_computed(file, monkeypatch):
    """Killed meanwhile, it would open the file no more, and they were lost."""
    computed = []

    def early(path):
        assert not computed
        return open_to_grow(path)

    monkeypatch.setattr("discli.data.grids.open_to_grow", early)
    write_grid(file, GRID, lambda rows: computed.append(rows) or numbers()(rows), 8)
    assert Store(file).read_grid("net", np.array([3])).shape == (1, 2, 2, 3)


def test_a_file_whose_features_are_not_what_it_says_is_corrupt(file, tmp_path):
    write_grid(file, GRID, numbers(), 8)
    for damage in ("gone", "another shape", "unfinished"):
        damaged = shutil.copy(file, tmp_path / "damaged.h5")
        with h5py.File(damaged, "r+") as opened:
            if damage == "unfinished":
                opened.attrs["finished"] = False
            else:
                del opened[GRID.dataset]
                if damage == "another shape":
                    opened.create_dataset(GRID.dataset, data=np.zeros((20, 2, 2, 2), np.float16))
        with pytest.raises(DiscliError, match="unfinished" if damage == "unfinished" else "corrupt"):
            Store(damaged)


@installed
def test_of_latents_the_network_sees_the_decoded_images(shared, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index, pixels in enumerate(some_rows(2, contract(resolution=32))):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(images / f"{index}.png")
    vae, out = shared / "vae-tiny", tmp_path / "a.h5"
    encode(images, 32, codec="vae", vae=str(vae), out=out, features="efficientnet-lite0", workers=0, device="cpu")
    store = Store(out)
    codec = load_codec(store.contract.codec, "cpu")
    decoded = codec.decode(store.contract.codec.to_model_space(store.read(np.arange(2))))
    expected = lite0.EfficientNetLite0()(decoded).grid.permute(0, 2, 3, 1).half()
    assert torch.equal(store.read_grid("efficientnet-lite0", np.arange(2)), expected)


def test_features_of_another_network_under_the_same_name_are_refused(file):
    write_grid(file, GRID, numbers(), 8)
    before = file.read_bytes()
    with pytest.raises(DiscliError, match="another network") as refusal:
        write_grid(file, GRID.model_copy(update={"weights_sha256": "2"}), numbers(), 8)
    assert refusal.value.status == 2
    assert file.read_bytes() == before


def test_infinite_features_are_refused_and_nothing_is_lost(file):
    before = file.read_bytes()
    with pytest.raises(DiscliError, match="infinite"):
        write_grid(file, GRID, lambda rows: np.full((len(rows), 2, 2, 3), np.inf, np.float16), 8)
    assert file.read_bytes() == before


def test_parts_with_features_make_one_file_with_features(tmp_path):
    out = tmp_path / "a.h5"
    for i in range(3):
        write_part(out, i, 3)
    merge_parts(out)
    write_grid(out, GRID, numbers(), 4)
    whole = out.read_bytes()
    out.unlink()
    for i in range(3):
        start = Store(part(out, (i, 3)), parts=True).positions[0]
        write_grid(part(out, (i, 3)), GRID, numbers(start), 4)
    merged = merge_parts(out)
    assert (merged.grids["net"].reshape(-1) == np.arange(12 * len(ROWS)).astype(np.float16)).all()
    assert out.read_bytes() == whole


def test_a_merge_that_died_before_its_features_is_taken_up(tmp_path):
    out = tmp_path / "a.h5"
    for i in range(2):
        write_part(out, i, 2)
    merge_parts(out)
    assert not lacks_features(out)
    for i in range(2):
        write_grid(part(out, (i, 2)), GRID, numbers(), 4)
    assert lacks_features(out)
    assert merge_parts(out).contract.grids == (GRID,)
    assert not lacks_features(out)


def test_parts_with_different_features_do_not_merge(tmp_path):
    for i in range(2):
        write_part(tmp_path / "a.h5", i, 2)
    write_grid(part(tmp_path / "a.h5", (0, 2)), GRID, numbers(), 4)
    with pytest.raises(DiscliError, match="different features"):
        merge_parts(tmp_path / "a.h5")


@installed
def test_efficientnet_lite0_sees_one_vector_for_each_square_of_four_pixels(tmp_path):
    promise = contract(resolution=32)
    file = write_store(tmp_path / "a.h5", some_rows(11, promise), promise)
    add_features(file, "efficientnet-lite0", device="cpu")
    store = Store(file)
    [grid] = store.contract.grids
    assert (grid.side.plain(), grid.channels, grid.input_size.plain(), grid.weights_sha256) == (
        8,
        112,
        128,
        lite0.SHA256,
    )
    expected = lite0.EfficientNetLite0()(store.read(np.arange(11))).grid.permute(0, 2, 3, 1).half()
    assert torch.equal(store.read_grid("efficientnet-lite0", np.arange(11)), expected)
    assert ("features", grid.describe()) in store.contract.describe()


@installed
def test_encode_adds_features_to_a_file_that_is_finished(tmp_path):
    """By its source again, or by the data file alone; both end with the same file."""
    source = tmp_path / "images"
    source.mkdir()
    store = write_store(tmp_path / "x.h5", some_rows(3, contract(resolution=32)), contract(resolution=32))
    for index, pixels in enumerate(Store(store).read(np.arange(3)).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(source / f"{index}.png")
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    how = {"workers": 0, "device": "cpu"}
    assert encode(source, 32, out=a, features="efficientnet-lite0", **how) == a
    encode(source, 32, out=b, **how)
    assert not Store(b).contract.grids
    add_features(b, "efficientnet-lite0", device="cpu")
    assert a.read_bytes() == b.read_bytes()
    b.unlink()
    encode(source, 32, out=b, **how)
    encode(source, 32, out=b, features="efficientnet-lite0", **how)
    assert a.read_bytes() == b.read_bytes()


@installed
def test_the_command_takes_a_data_file_for_its_source(tmp_path):
    promise = contract(resolution=16)
    write_store(tmp_path / "a.h5", some_rows(3, promise), promise)
    done = discli("encode", "a.h5", "--features", "efficientnet-lite0", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "a.h5"), done.stderr
    assert Store(tmp_path / "a.h5").grids["efficientnet-lite0"].shape == (3, 8, 8, 112)


def test_images_below_16_px_are_refused(file):
    with pytest.raises(DiscliError, match="4 px are too small") as refusal:
        add_features(file, "efficientnet-lite0", device="cpu")
    assert "discli teacher" in refusal.value.hint
    assert refusal.value.status == 2


def test_without_its_weights_the_error_names_the_command(tmp_path, monkeypatch):
    promise = contract(resolution=16)
    file = write_store(tmp_path / "a.h5", some_rows(2, promise), promise)
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    monkeypatch.delenv(lite0.VARIABLE, raising=False)
    with pytest.raises(DiscliError) as refusal:
        add_features(file, "efficientnet-lite0", device="cpu")
    assert lite0.INSTALL in refusal.value.hint
    (tmp_path / "other.pth").write_bytes(b"not these")
    monkeypatch.setenv(lite0.VARIABLE, str(tmp_path / "other.pth"))
    with pytest.raises(DiscliError, match="sha256"):
        add_features(file, "efficientnet-lite0", device="cpu")
