"""Several files read as one: the same samples however they are named and wherever they lie, or refused."""

import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from discli.data.content import content_sha256
from discli.data.encode import merge
from discli.data.grids import write_grid
from discli.data.merge import merge_parts, merge_virtually
from discli.data.shards import part_of
from discli.data.store import Store, open_store
from discli.data.writer import StoreWriter
from discli.recipe.data_files import absolute, are_there, as_one_path, files_of
from discli.runtime.errors import DiscliError
from tests.data.files import VAE, contract, some_rows, write_store
from tests.data.test_grids import GRID, numbers
from tests.data.test_merge import ROWS, write_part

N = len(ROWS)


@pytest.fixture
def parts(tmp_path):
    """The pattern of three parts."""
    for i in range(3):
        write_part(tmp_path / "a.h5", i, 3)
    return tmp_path / "a.shard-*-of-3.h5"


def same(one: Store, two: Store) -> bool:
    order = np.array([10, 0, 3, 3, 9, 4, 7])
    flip = np.array([0, 1, 1, 0, 1, 0, 0], bool)
    return (
        one.contract == two.contract
        and one.positions == two.positions
        and (one.names, one.skipped, one.labels.tolist()) == (two.names, two.skipped, two.labels.tolist())
        and (one.read(order, flip) == two.read(order, flip)).all().item()
        and (np.asarray(one.rows[2:9]) == two.rows[2:9]).all()
        and (one.rows[5] == two.rows[5]).all()
        and content_sha256(one) == content_sha256(two)
    )


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_parts_are_the_file_that_they_would_merge_into(cache, parts, tmp_path):
    merged = merge_parts(tmp_path / "a.h5")
    read = open_store(parts, cache)
    assert same(read, merged)
    assert (read.title, read.beside(".x.json")) == ("a.h5", tmp_path / "a.x.json")


def test_features_and_latents_of_two_orientations_are_read_as_one(tmp_path):
    both = contract(codec=VAE, dtype="float16", flip_stored=True)
    rows = some_rows(11, both)
    for k, (start, stop) in enumerate([(0, 4), (4, 11)]):
        file = write_store(tmp_path / f"{k}.h5", rows[start:stop], both, np.arange(start, stop) % 2)
        write_grid(file, GRID, numbers(start), 8)
    store, order = Store(tmp_path / "*.h5"), np.array([10, 3, 4, 0])
    flip = np.array([True, False, True, True])
    assert (store.read(order, flip).numpy() == rows[order, flip.astype(int)]).all()
    assert (store.read_grid("net", order)[:, 0, 0, 0].numpy() == 12 * order).all()
    whole = Store(write_store(tmp_path / "whole", rows, both, np.arange(11) % 2)).contract
    assert np.allclose(store.contract.channel_mean, whole.channel_mean, rtol=1e-5)
    assert np.allclose(store.contract.channel_std, whole.channel_std, rtol=1e-5)


def test_features_are_added_to_each_of_several_files(parts):
    write_grid(parts, GRID, numbers(), 2)
    assert Store(parts).read_grid("net", np.array([10, 5]))[:, 0, 0, 0].tolist() == [120, 60]


def test_neither_the_order_of_names_nor_folders_matter(parts, tmp_path):
    before = pickle.dumps(Store(parts).read(np.arange(N)).numpy())
    (tmp_path / "disk").mkdir()
    second = part_of(tmp_path / "a.h5", (1, 3))
    second = second.rename(tmp_path / "disk" / second.name)
    first, third = (part_of(tmp_path / "a.h5", (i, 3)) for i in (0, 2))
    for named in (f"{second},{third}, {first}", f"{parts},{second}"):
        store = Store(named)
        assert pickle.dumps(store.read(np.arange(N)).numpy()) == before
        assert [shard.contract.shard[0] for shard in store.shards] == [0, 1, 2]


def test_whole_files_are_in_the_order_of_the_numbers_in_their_names(tmp_path):
    for k, name in enumerate(["s2", "s10", "s9"]):
        write_store(tmp_path / f"{name}.h5", some_rows(k + 2, contract()), contract(), np.zeros(k + 2, np.int64))
    store = Store(tmp_path / "s*.h5")
    assert [shard.path.stem for shard in store.shards] == ["s2", "s9", "s10"]
    assert [shard.start for shard in store.shards] == [0, 2, 6]
    assert (store.read(np.arange(2, 6)).numpy() == some_rows(4, contract())).all()
    (tmp_path / "s9.h5").rename(tmp_path / "s90.h5")
    assert Store(tmp_path / "s*.h5").contract.source_sha256 != store.contract.source_sha256, "another order is noticed"
    assert Store(tmp_path / "s2.h5").contract.source_sha256 == "abc"


def refused(where, word):
    with pytest.raises(DiscliError, match=word) as caught:
        Store(where)
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_what_is_missing_doubled_or_of_another_kind_is_refused(parts, tmp_path):
    first = part_of(tmp_path / "a.h5", (0, 3))
    assert str(parts) in refused(first, "is part 0 of 3").hint
    refused(f"{parts},{first}", "both part 0")
    refused(f"{parts},{tmp_path / 'nothing'}-*.h5", "nothing-")
    refused(f"{parts},{tmp_path / 'nothing.h5'}", "does not exist")
    refused(",", "no file")
    write_part(tmp_path / "b.h5", 1, 2)
    refused(f"{parts},{part_of(tmp_path / 'b.h5', (1, 2))}", "part 1 of 2")
    whole = write_store(tmp_path / "c.h5", some_rows(3, contract()), contract(), np.zeros(3, np.int64))
    refused(f"{parts},{whole}", "whole file")
    first.unlink()
    refused(parts, "1 of 3 parts are missing .*: 0")


@pytest.mark.parametrize(
    "foreign",
    [
        {"resolution": 6},
        {"class_names": ("ant", "wasp")},
        {"class_names": ("ant", "bee", "cat")},
        {"crop": "resize"},
        {"codec": VAE, "dtype": "float16"},
        {"source_sha256": "of other images"},
    ],
)
def test_what_was_encoded_otherwise_is_refused(foreign, tmp_path):
    key = next(iter(foreign))
    promise = contract(**foreign)
    rows = some_rows(4, promise)
    write_part(tmp_path / "a.h5", 0, 2)
    final = promise.model_copy(update={"shard": (1, 2), "num_samples": 6})
    with StoreWriter(part_of(tmp_path / "a.h5", (1, 2)), final, range(5, 11), {}) as writer:
        writer.append(rows, 11)
        writer.settle()
        final = final.model_copy(update={"num_samples": 4})
        writer.finish(final, list("abcd"), np.zeros(4, np.int64), [], (5, 11, 11))
    refused(tmp_path / "a.*.h5", f"has {key}")
    if key != "source_sha256":
        write_store(tmp_path / "w0.h5", some_rows(5, contract()), contract(), np.zeros(5, np.int64))
        write_store(tmp_path / "w1.h5", rows, promise, np.zeros(4, np.int64))
        refused(tmp_path / "w*.h5", f"has {key}")


def test_the_same_images_twice_are_refused(tmp_path):
    for name in ("a.h5", "b.h5"):
        write_store(tmp_path / name, some_rows(3, contract()), contract(), np.zeros(3, np.int64))
    refused(tmp_path / "*.h5", "same images")
    refused(f"{tmp_path / 'a.h5'},{tmp_path / 'a.h5'}", "same images")


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_files_are_read_with_no_more_open_than_one(count, tmp_path):
    rows = some_rows(2 * count, contract())
    for k in range(count):
        promise = contract(source_sha256=str(k))
        write_store(tmp_path / f"{k}.h5", rows[2 * k : 2 * k + 2], promise, np.array([0, 1]))
    before = open_files()
    store = Store(tmp_path / "*.h5")
    order = np.random.default_rng(0).permutation(2 * count)
    assert (store.read(order).numpy() == rows[order]).all()
    assert open_files() == before
    copied = pickle.dumps(store)
    assert len(copied) < 500
    assert (pickle.loads(copied).read(order).numpy() == rows[order]).all()


def open_files() -> int:
    """0 where the system does not say."""
    held = Path("/proc/self/fd")
    return len(list(held.iterdir())) if held.is_dir() else 0


def test_processes_that_were_forked_read_the_same(parts):
    store, order = Store(parts), np.arange(N)[::-1].copy()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for read in pool.map(_read, [(store, order), (store, order[:3])]):
            assert (read == ROWS[order[: len(read)]]).all()
    assert (store.rows[order] == ROWS[order]).all()


def _read(asked):
    store, order = asked
    return np.asarray(store.rows[order])


def test_a_file_deleted_while_it_is_read_harms_nobody_and_is_missed_afterwards(parts, tmp_path):
    store = Store(parts)
    part_of(tmp_path / "a.h5", (1, 3)).unlink()
    assert (store.read(np.arange(N)).numpy() == ROWS).all()
    refused(parts, "missing")


def test_a_virtual_merge_reads_as_the_real_one(parts, tmp_path, monkeypatch):
    write_grid(parts, GRID, numbers(), 4)
    real = merge_parts(tmp_path / "a.h5")
    virtual = merge_virtually(tmp_path / "v.h5", files_of(parts))
    assert same(virtual, real)
    assert (virtual.read_grid("net", np.arange(N)) == real.read_grid("net", np.arange(N))).all()
    assert virtual.beside(".x") == tmp_path / "v.x"
    assert virtual.path.stat().st_size < 100_000
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    monkeypatch.chdir("/")
    with h5py.File(moved / "v.h5") as one, h5py.File(moved / "a.h5") as other:
        assert {source.file_name for source in one["samples"].virtual_sources()} == {
            part_of(moved / "a.h5", (i, 3)).name for i in range(3)
        }
        for name in other:
            assert (one[name][...] == other[name][...]).all()
    assert same(Store(moved / "v.h5"), Store(moved / "a.h5"))


def test_a_virtual_merge_without_its_parts_is_refused(parts, tmp_path):
    out = merge(tmp_path / "a.h5", virtual=True)
    with pytest.raises(DiscliError, match="there already"):
        merge(out, virtual=True)
    second = part_of(out, (1, 3))
    kept = second.read_bytes()
    second.rename(tmp_path / "gone.h5")
    assert second.name in refused(out, "reads from").message
    second.write_bytes(kept)
    assert (Store(out).read(np.arange(N)).numpy() == ROWS).all()
    refused(f"{out},{second}", "virtual")
    for i in range(3):  # parts of another encode in their place
        part_of(out, (i, 3)).unlink()
        write_part(out, i, 3, source="elsewhere", source_sha256="of other images")
    refused(out, "not those")


def test_parts_on_other_disks_are_merged_by_name(parts, tmp_path):
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    second = part_of(tmp_path / "a.h5", (1, 3))
    second.rename(disk / second.name)
    named = f"{parts},{disk / '*.h5'}"
    virtual, real = merge(out / "v.h5", named, virtual=True), merge(out / "r.h5", named)
    assert same(Store(virtual), Store(real))
    with h5py.File(virtual) as file:
        assert all(Path(source.file_name).is_absolute() for source in file["samples"].virtual_sources())


def test_what_names_files(tmp_path):
    for name in ("a-00.h5", "a-01.h5", "b,c.h5"):
        (tmp_path / name).write_text("")
    assert [file.name for file in files_of(tmp_path / "a-{00..01}.h5")] == ["a-00.h5", "a-01.h5"]
    assert [file.name for file in files_of(tmp_path / "b,c.h5")] == ["b,c.h5"], "what is there is one file"
    assert are_there(tmp_path / "a-*.h5")
    assert not are_there(f"{tmp_path}/a-*.h5,gone.h5")
    assert not are_there(tmp_path / "c-*.h5")
    assert absolute(Path("a-*.h5,/d/b.h5")).name == "b.h5"
    assert str(absolute(Path("a-*.h5,/d/b.h5"))) == f"{Path.cwd()}/a-*.h5,/d/b.h5"
    assert as_one_path(["a.h5", "/d/b-*.h5"]) == "a.h5,/d/b-*.h5"
    for wrong in ([], [3], [" "]):
        with pytest.raises(ValueError, match="list"):
            as_one_path(wrong)
    assert not are_there(",".join(f"{tmp_path}/{k}.h5" for k in range(1000)))


def test_a_folder_may_have_commas_and_brackets_in_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "a, b [1]"
    folder.mkdir()
    for i in range(3):
        write_part(folder / "x.h5", i, 3)
    monkeypatch.chdir(folder)
    named = absolute(Path("x.shard-*.h5"))  # as a run keeps it
    listed = as_one_path([str(file) for file in files_of("x.shard-*.h5")])
    merged = merge_parts(folder / "x.h5")
    monkeypatch.chdir(tmp_path)
    assert are_there(named)
    assert same(Store(named), merged)
    assert same(merge_virtually(folder / "v.h5", files_of(named)), merged)
    monkeypatch.chdir(folder)
    assert same(Store(listed), merged)


def test_files_of_one_name_are_in_the_same_order_wherever_they_lie(tmp_path):
    for k, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        write_store(tmp_path / folder / "x.h5", some_rows(k + 2, contract()), contract(), np.zeros(k + 2, np.int64))
    before = Store(tmp_path / "*" / "x.h5").contract
    (tmp_path / "a").rename(tmp_path / "c")
    assert Store(tmp_path / "*" / "x.h5").contract == before
