"""Whatever happened to samples and to statistics: they are read as they were, or a line says what is wrong."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from discli.evaluation.evaluate import evaluate
from discli.evaluation.frechet import frechet_distance
from discli.evaluation.images import open_images
from discli.evaluation.moments import Gaussian
from discli.evaluation.npz import NpzImages, ReferenceStatistics, read_statistics, write_statistics
from discli.evaluation.reference import open_reference
from discli.sampling.output import open_output
from tests.evaluation.cases import drawn_images
from tests.evaluation.test_evaluate import save_samples
from tests.fuzz.damage import answer, code, contents, damaged, damaged_json, examples, with_code

CPU = torch.device("cpu")
IMAGES = drawn_images(6, 8, 0)


@pytest.fixture
def samples(tmp_path) -> Path:
    return save_samples(tmp_path / "samples", IMAGES, None)


def read_all(path: Path) -> None:
    """Every image, class and hash, and that nothing changed."""
    before = contents(path.parent)

    def read() -> None:
        images = open_images(path, CPU)
        found = torch.cat(list(images.batches(range(images.n), 4)))
        assert found.dtype == torch.uint8
        assert found.shape == (images.n, 3, *images.size)
        assert images.labels is None or images.labels.shape == (images.n,)
        images.content_sha256()

    answer(read)
    assert contents(path.parent) == before


@examples(60)
@given(st.data())
def test_any_manifest(samples, data):
    manifest = samples / "manifest.json"
    good = manifest.read_bytes()
    manifest.write_bytes(data.draw(damaged_json(good)))
    read_all(samples)
    manifest.write_bytes(good)


@pytest.mark.parametrize("change", [{"n": 10**12}, {"n": 7}, {"n": 0}, {"sampler": "ddim"}, {"step": "x"}, {"ema": {}}])
def test_a_manifest_that_cannot_be_right_is_refused_before_any_work(tmp_path, change):
    folder = save_samples(tmp_path / "samples", IMAGES, None, **({"classes": None} | change))
    assert answer(lambda: evaluate(folder, folder, features="random", cache=False) or True) is None


@examples(40)
@given(st.data(), st.sampled_from(["000000.png", "000005.png"]))
def test_any_image(samples, data, name):
    path = samples / name
    good = path.read_bytes()
    path.write_bytes(data.draw(damaged(good)))
    read_all(samples)
    path.write_bytes(good)


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


ROWS = IMAGES.permute(0, 2, 3, 1).contiguous().numpy()
BATCH = npz(arr_0=ROWS, arr_1=np.arange(6))


@pytest.fixture(scope="module")
def statistics(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("statistics") / "ref.npz"
    gaussian = Gaussian(torch.arange(5.0).double(), torch.eye(5).double(), 9)
    write_statistics(path, ReferenceStatistics({"features": gaussian}, {"resolution": [8, 8], "kind": "images"}))
    return path.read_bytes()


def read_reference(path: Path) -> None:
    def distance() -> None:
        found = read_statistics(path)
        if found is not None and "features" in found.gaussians:
            ours = Gaussian(torch.zeros(5).double(), torch.eye(5).double(), 9)
            if found.gaussians["features"].dim == 5:
                frechet_distance(ours, found.gaussians["features"])

    before = contents(path.parent)
    answer(distance)
    answer(lambda: open_reference(path, CPU).kind)
    answer(lambda: list(NpzImages(path).batches(4)))
    assert contents(path.parent) == before


@examples(80)
@given(st.data(), st.booleans())
def test_any_npz(tmp_path, statistics, data, batch):
    path = tmp_path / "a.npz"
    path.write_bytes(data.draw(damaged(BATCH if batch else statistics)))
    read_reference(path)


ARRAYS = st.sampled_from([
    np.zeros(5), np.zeros((5, 5)), np.zeros(0), np.zeros((0, 0)), np.zeros((6, 8, 8, 3), np.uint8), np.array("{}"),
    np.zeros((6, 0, 8, 3), np.uint8), np.zeros((6, 8, 8, 3)), np.full(5, np.nan), np.full((5, 5), 1e308), np.array("x"),
    np.zeros(5, "M8[s]"), np.array(["a"] * 5), np.zeros(5, complex), np.zeros(5, bool), np.zeros(5, [("a", "i4")]),
    np.asfortranarray(np.zeros((6, 8, 8, 3), np.uint8)), np.float64(3), np.array('{"n": 3}'),
    np.array('{"n": {"features": "x"}}'),
    np.array('{"resolution": 3}'), np.array("[" * 50_000), np.array('{"kind": {}}'), np.arange(6), np.full(6, -1),
])  # fmt: skip


@examples(80)
@given(
    st.dictionaries(
        st.sampled_from(["mu", "sigma", "mu_s", "sigma_s", "arr_0", "arr_1", "discli", "x"]), ARRAYS, min_size=1
    )
)
def test_any_arrays(tmp_path, arrays):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(**({"mu": np.zeros(5), "sigma": np.eye(5)} | arrays)))
    read_reference(path)


@pytest.mark.parametrize("name", ["mu", "sigma", "arr_0", "arr_1", "discli"])
def test_objects_in_an_npz_are_never_unpickled(tmp_path, name):
    sentinel, path = tmp_path / "executed", tmp_path / "files" / "a.npz"
    path.parent.mkdir()
    evil = np.array([with_code(sentinel)], dtype=object)
    path.write_bytes(npz(**({"mu": np.zeros(5), "sigma": np.eye(5), "arr_0": ROWS} | {name: evil})))
    read_reference(path)
    read_all(path)
    path.write_bytes(code(sentinel))
    read_reference(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", code(sentinel))
        archive.writestr("sigma", b"x")
    read_reference(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("form", ["npz", "zip"])
@examples(25)
@given(data=st.data())
def test_any_archive_of_samples(tmp_path, form, data):
    folder = save_samples(tmp_path / form, IMAGES, None, format=form)
    for path in folder.glob("*.png"):
        path.unlink()
    output = open_output(form, folder)
    output.write(range(6), IMAGES)
    output.finish(6, None)
    archive = folder / f"samples.{form}"
    good = archive.read_bytes()
    read_all(folder)
    archive.write_bytes(data.draw(damaged(good)))
    read_all(folder)
    resume(form, folder)


@pytest.mark.parametrize("form", ["npz", "zip", "png"])
@examples(25)
@given(data=st.data())
def test_any_part_of_an_interrupted_run(tmp_path, form, data):
    output = open_output(form, tmp_path)
    output.clear()
    output.write(range(3), IMAGES[:3])
    output.write(range(3, 5), IMAGES[3:5])
    part = data.draw(st.sampled_from(sorted(path for path in tmp_path.rglob("*.*") if path.is_file())))
    part.write_bytes(data.draw(damaged(part.read_bytes())))
    kept = contents(tmp_path, part.name)
    resume(form, tmp_path)
    assert contents(tmp_path, part.name) == kept


def resume(form: str, folder: Path) -> None:
    """What ``discli sample`` does first in a folder that it finds."""
    output = open_output(form, folder)
    done = answer(output.done)
    if done is not None:
        assert done <= set(range(7))
        for index in done:
            answer(lambda index=index: output.read([index]))


@pytest.mark.parametrize("form", ["npz", "zip", "png"])
def test_parts_with_code_are_not_executed(tmp_path, form):
    sentinel = tmp_path / "executed"
    folder = tmp_path / "out"
    folder.mkdir()
    output = open_output(form, folder)
    output.write(range(3), IMAGES[:3])
    part = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    for content in (code(sentinel), npz(indices=np.array([with_code(sentinel)], dtype=object), rows=ROWS[:1])):
        part.write_bytes(content)
        resume(form, folder)
    assert not sentinel.exists()


def test_a_page_of_damaged_previews_is_a_page(tmp_path):
    from discli.reports.run_page import _image

    good = io.BytesIO()
    Image.new("RGB", (8, 8)).save(good, "PNG")
    for cut in range(0, len(good.getvalue()), 7):
        (tmp_path / "1.png").write_bytes(good.getvalue()[:cut] + b"\xff" * 9 + good.getvalue()[cut:])
        _image(tmp_path / "1.png", 100)


def test_a_manifest_of_json_alone_is_no_manifest(samples):
    (samples / "manifest.json").write_text(json.dumps([1]))
    assert open_images(samples, CPU).manifest is None
