"""Every writer: what is written can be read, is found again after a kill, and is packed when all is there."""

import zipfile
from typing import get_args

import numpy as np
import pytest
import torch

from discli.runs.manifest import Format
from discli.runtime.errors import DiscliError
from discli.sampling.background import Background
from discli.sampling.writers import Memory, open_writer

IMAGES = torch.randint(0, 256, (9, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
STORING = [name for name in get_args(Format) if name != "none"]


@pytest.mark.parametrize("format", STORING)
def test_images_survive_in_any_order_and_a_second_session_goes_on(format, tmp_path):
    first = open_writer(format, tmp_path)
    first.write([4, 5, 6], IMAGES[4:7])
    first.write([0, 1, 2, 3], IMAGES[:4])
    second = open_writer(format, tmp_path)
    assert second.done() == set(range(7))
    second.write([7, 8], IMAGES[7:])
    assert torch.equal(second.read([8, 0, 5]), IMAGES[[8, 0, 5]])
    second.finish(9, [1] * 9)
    third = open_writer(format, tmp_path)
    assert third.done() == set(range(9))
    assert torch.equal(third.read(range(9)), IMAGES)


@pytest.mark.parametrize("format", STORING)
def test_a_finished_output_grows_with_n(format, tmp_path):
    writer = open_writer(format, tmp_path)
    writer.write(range(6), IMAGES[:6])
    writer.finish(6, None)
    writer.write([6, 7, 8], IMAGES[6:])
    writer.finish(9, None)
    assert open_writer(format, tmp_path).done() == set(range(9))
    assert torch.equal(writer.read(range(9)), IMAGES)


@pytest.mark.parametrize("format", STORING)
def test_clear_deletes_images_and_nothing_else(format, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    writer = open_writer(format, tmp_path)
    writer.write([0, 1], IMAGES[:2])
    writer.finish(2, None)
    writer.write([2], IMAGES[2:3])
    writer.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_the_same_images_make_the_same_file_however_they_came(format, tmp_path):
    for name, parts in (("a", [range(9)]), ("b", [range(5, 9), range(5)])):
        (tmp_path / name).mkdir()
        writer = open_writer(format, tmp_path / name)
        for part in parts:
            writer.write(part, IMAGES[list(part)])
        writer.finish(9, list(range(9)))
    a, b = ((tmp_path / name / f"samples.{format}").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_an_archive_that_grew_is_the_same_file_as_one_made_at_once(format, tmp_path):
    for name, sizes in (("a", [9]), ("b", [4, 9])):
        (tmp_path / name).mkdir()
        begin = 0
        for n in sizes:
            writer = open_writer(format, tmp_path / name)
            writer.write(range(begin, n), IMAGES[begin:n])
            writer.finish(n, list(range(n)))
            begin = n
    a, b = ((tmp_path / name / f"samples.{format}").read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_an_archive_is_opened_once_however_many_images_are_read_and_added(format, tmp_path, monkeypatch):
    writer = open_writer(format, tmp_path)
    writer.write(range(6), IMAGES[:6])
    writer.finish(6, None)
    opened = []
    original = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *a, **k: (opened.append(a[1]), original(*a, **k))[1])
    second = open_writer(format, tmp_path)
    second.done()
    for index in range(6):
        second.read([index])
    assert opened == [writer.archive]
    second.write([6, 7, 8], IMAGES[6:])
    opened.clear()
    second.finish(9, None)
    assert opened.count(writer.archive) <= 1, "its images are copied without opening it for each"
    assert torch.equal(second.read(range(9)), IMAGES), "what another file replaced is opened anew"


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_an_archive_that_another_process_replaced_is_seen(format, tmp_path):
    ours, theirs = open_writer(format, tmp_path), open_writer(format, tmp_path)
    ours.write(range(4), IMAGES[:4])
    ours.finish(4, None)
    assert ours.done() == set(range(4))
    theirs.write(range(4, 9), IMAGES[4:])
    theirs.finish(9, None)
    assert ours.done() == set(range(9))
    assert torch.equal(ours.read([8, 0]), IMAGES[[8, 0]])


def test_npz_is_stored_plainly_as_numpy_reads_it(tmp_path):
    writer = open_writer("npz", tmp_path)
    writer.write(range(9), IMAGES)
    writer.finish(9, [3] * 9)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], IMAGES.permute(0, 2, 3, 1).numpy())
        assert (arrays["arr_1"].dtype, arrays["arr_1"].tolist()) == (np.int64, [3] * 9)
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        assert archive.testzip() is None


def test_memory_keeps_what_is_wanted_alone():
    kept = Memory(wanted={1, 2})
    kept.write([0, 1, 2], IMAGES[:3])
    assert torch.equal(kept.read([2, 1]), IMAGES[[2, 1]])
    with pytest.raises(KeyError):
        kept.read([0])


def test_background_writes_everything_in_order_before_it_ends():
    written = []
    with Background(
        lambda i, x: x.byte(), lambda i, p: written.append((list(i), p)), torch.device("cpu")
    ) as background:
        for index in range(5):
            background.put([index], torch.full((1, 3, 2, 2), float(index)))
    assert [indices for indices, _ in written] == [[0], [1], [2], [3], [4]]
    assert [int(images.max()) for _, images in written] == [0, 1, 2, 3, 4]


def test_an_error_while_writing_reaches_the_caller():
    def full(indices, images):
        raise DiscliError("No space left.")

    def work():
        with Background(lambda i, x: x, full, torch.device("cpu")) as background:
            for index in range(9):
                background.put([index], torch.zeros(1, 3, 2, 2))

    with pytest.raises(DiscliError, match="No space left"):
        work()


@pytest.mark.parametrize("format", STORING)
def test_a_damaged_file_is_named_with_the_remedy(format, tmp_path):
    writer = open_writer(format, tmp_path)
    writer.write([0, 1], IMAGES[:2])
    if format != "png":
        writer.finish(2, None)
    file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DiscliError, match=f"{file.name} is corrupt") as caught:
        open_writer(format, tmp_path).read(sorted(open_writer(format, tmp_path).done()))
    assert "Remove it" in caught.value.hint
