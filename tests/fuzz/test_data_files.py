"""Whatever happened to a data file: its samples come out as they were written, or a line says what is wrong."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from discli.data.describe import data_facts
from discli.data.store import Store, open_store
from discli.recipe import check_fits, parse_recipe
from discli.runtime.facts import fact_table
from tests.data.files import VAE, contract, some_rows, write_store
from tests.fuzz.damage import ODD, answer, code, contents, damaged, damaged_json, examples

RGB = contract()
BOTH = contract(codec=VAE, dtype="float16", flip_stored=True)
MODEL = {"embed_dim": 8, "depth": 3, "num_classes": 2}
RECIPE = parse_recipe({"name": "r", "model": MODEL, "data": {"resolution": 4}, "train": {"steps": 1}}, "here")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    labels = np.array([0, 1, 1, 0, 1, 0])
    return {
        name: write_store(folder / f"{name}.h5", some_rows(6, promise), promise, labels).read_bytes()
        for name, promise in (("rgb", RGB), ("both", BOTH))
    }


def read_all(path: Path) -> None:
    """Everything that anybody reads of a data file, and that the file is the same afterwards."""
    before = contents(path.parent)
    store = answer(lambda: open_store(path))
    if store is not None:
        check(store)
        answer(lambda: open_store(path, "ram"))
        answer(lambda: store.names)
        answer(lambda: store.skipped)
        answer(lambda: check_fits(RECIPE, store.contract, str(path)))
    facts = answer(lambda: data_facts(path, path.parent / "sheet.png", 3, None, "cpu"))
    if facts is not None:
        json.dumps(facts.record)
        fact_table(facts.rows)
    (path.parent / "sheet.png").unlink(missing_ok=True)
    assert contents(path.parent) == before


def check(store: Store) -> None:
    """Damage within the rows cannot be told from images; their shape and kind can."""
    indices = np.arange(len(store))
    read = store.read(indices, np.ones(len(store), bool) if store.contract.flip_stored else None)
    orientations = 1 if store.contract.flip_stored else 0
    assert tuple(read.shape) == (len(store), *store.contract.row_shape[orientations:])
    assert str(read.dtype).removeprefix("torch.") == store.contract.dtype
    if store.labels is not None:
        assert set(store.labels.tolist()) <= set(range(store.contract.num_classes))


@examples(50)
@given(st.data(), st.sampled_from(["rgb", "both"]))
def test_any_bytes(good, tmp_path, data, kind):
    path = tmp_path / "a.h5"
    path.write_bytes(data.draw(damaged(good[kind])))
    read_all(path)


@examples(40)
@given(data=st.data())
def test_any_header(good, tmp_path, data):
    """What is not samples: HDF5's own bookkeeping, where the library's parsers are."""
    whole, rows = good["rgb"], range(3 * 4096, 3 * 4096 + 6 * 48)
    content = bytearray(whole)
    used = [i for i, byte in enumerate(whole) if byte and i not in rows]
    for place in data.draw(st.lists(st.sampled_from(used), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    read_all(path)


ARRAYS = st.sampled_from([
    np.zeros(6, np.int64), np.full(6, 2), np.full(6, -1), np.zeros(5, np.int64), np.zeros((6, 3, 4, 4), np.uint8),
    np.zeros((6, 3, 4, 4), np.float32), np.zeros((6, 3, 4, 4), ">f4"), np.zeros((7, 3, 4, 4), np.uint8), np.zeros(0),
    np.float64("nan"), np.int64(3), np.array([b"a", b"\xff"]), np.zeros(6, np.bool_), np.array([0, 6, 6]),
    np.array([6, 0, 1]), np.zeros(2, [("a", "i4"), ("b", "f8")]), h5py.Empty("f"), "text", True, False,
])  # fmt: skip


@examples(60)
@given(
    data=st.data(),
    change=st.sampled_from(["attribute", "dataset", "chunked", "group", "gone", "link", "contract", "contract"]),
    name=st.sampled_from(["samples", "labels", "names", "skipped", "contract", "positions", "format", "finished"]),
)
def test_any_other_content(good, tmp_path, data, change, name):
    path = tmp_path / "a.h5"
    path.write_bytes(good["rgb"])
    with h5py.File(path, "r+") as file:
        holder = file.attrs if name in file.attrs else file
        text = file["contract"][()]
        if change == "attribute":
            file.attrs[name] = data.draw(ARRAYS)
        elif change == "contract":
            del file["contract"]
            file["contract"] = data.draw(damaged_json(text)).replace(b"\0", b"\1")  # of which HDF5 knows no more
        else:
            del holder[name]
            if change == "dataset":
                holder[name] = data.draw(ARRAYS)
            elif change == "chunked":
                file.create_dataset(name, data=np.zeros((6, 3, 4, 4), np.uint8), chunks=(1, 3, 4, 4), compression=1)
            elif change == "group":
                file.create_group(name)
            elif change == "link":
                file[name] = h5py.ExternalLink("gone.h5", "/x")
    read_all(path)


@examples(10)
@given(
    st.sampled_from(
        [b"", b"hello", bytes(100_000), b"\x89HDF\r\n\x1a\n", b"discli encode has not finished this file\n"]
    )
)
def test_no_data_file_at_all(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    read_all(path)
    assert answer(lambda: open_store(tmp_path)) is None
    assert answer(lambda: open_store(tmp_path / ("x" * 5000))) is None


def test_a_pickle_is_not_executed(tmp_path):
    path, sentinel = tmp_path / "files" / "a.h5", tmp_path / "executed"
    path.parent.mkdir()
    path.write_bytes(code(sentinel))
    read_all(path)
    assert not sentinel.exists()


@examples(30)
@given(st.sampled_from(ODD))
@example("a\x00b")
def test_any_source(good, tmp_path, source):
    """info looks for the images beside their samples; where they are not, the samples stand alone."""
    path = tmp_path / "a.h5"
    path.write_bytes(good["rgb"])
    with h5py.File(path, "r+") as file:
        changed = json.dumps(json.loads(file["contract"][()]) | {"source": source})
        del file["contract"]
        file["contract"] = changed.replace("\\u0000", "\\u0001") if "\x00" in str(source) else changed
    read_all(path)
