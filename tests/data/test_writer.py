"""Killed at any byte, a file is gone on with and ends up the same."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from discli.data import writer as writer_module
from discli.data.layout import ROWS_AT, wrap_rows_in_hdf5
from discli.data.resume_log import resume_log_of
from discli.data.store import open_store
from discli.data.writer import StoreWriter, partial_of, skipped_of
from discli.runtime.errors import DiscliError
from tests.data.files import contract, finish, some_rows, write_store

PROMISE = contract(num_samples=12)
ROWS = some_rows(10, PROMISE)
ROW_BYTES = 48


@pytest.fixture(autouse=True)
def commit_every_batch(monkeypatch):
    monkeypatch.setattr(writer_module, "_SECONDS_BETWEEN_COMMITS", 0.0)


def feed(writer: StoreWriter, until: int = 6) -> None:
    """Six batches of two positions; 3 and 8 are unreadable."""
    kept = [position for position in range(12) if position not in (3, 8)]
    for batch in range(writer.state.end // 2, until):
        rows = [kept.index(position) for position in (2 * batch, 2 * batch + 1) if position in kept]
        skipped = [(position, "bad") for position in (2 * batch, 2 * batch + 1) if position not in kept]
        writer.append(ROWS[rows], 2 * batch + 2, skipped, upscaled=1)


def feed_and_settle(writer: StoreWriter) -> None:
    feed(writer)
    writer.settle()


def run(out: Path, until: int = 6) -> None:
    with StoreWriter(out, PROMISE, range(12), {"crop": "adm"}) as writer:
        feed(writer, until)
        if until == 6:
            finish(writer, PROMISE, np.arange(10) % 2)


@pytest.fixture
def uninterrupted(tmp_path):
    run(tmp_path / "whole.h5")
    return (tmp_path / "whole.h5").read_bytes()


def test_a_finished_file_opens_in_plain_h5py(tmp_path):
    run(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["samples"][...] == ROWS).all()
        assert file["labels"][...].tolist() == [0, 1] * 5
        assert file["names"].asstr()[...].tolist() == [str(k) for k in range(10)]
        assert file["samples"].chunks is None
        assert file.attrs["finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.skipped.txt"]
    assert skipped_of(tmp_path / "a.h5").read_text() == "3\tbad\n8\tbad\n"


def test_a_torn_journal_line_is_forgotten_and_the_file_is_the_same(tmp_path, uninterrupted):
    out = tmp_path / "a.h5"
    run(out, until=5)
    journal, partial = resume_log_of(out).read_bytes(), partial_of(out).read_bytes()
    assert journal.count(b"\n") >= 6
    for cut in range(0, len(journal), 37):
        partial_of(out).write_bytes(partial)
        resume_log_of(out).write_bytes(journal[:cut])
        run(out)
        assert out.read_bytes() == uninterrupted, cut
        out.unlink()


def test_rows_cut_off_or_beyond_the_journal_do_not_matter(tmp_path, uninterrupted):
    out = tmp_path / "a.h5"
    run(out, until=5)
    journal, partial = resume_log_of(out).read_bytes(), partial_of(out).read_bytes()
    for cut in [0, 1, 40, ROWS_AT - 1, *range(ROWS_AT, len(partial), 29), len(partial) + 100]:
        partial_of(out).write_bytes(partial[:cut].ljust(min(cut, len(partial) + 100), b"\xee"))
        resume_log_of(out).write_bytes(journal)
        run(out)
        assert out.read_bytes() == uninterrupted, cut
        out.unlink()


def test_killed_while_hdf5_writes_around_the_rows(tmp_path, uninterrupted):
    out = tmp_path / "a.h5"
    run(out, until=6 - 1)
    with StoreWriter(out, PROMISE, range(12), {"crop": "adm"}) as writer:
        feed(writer)
        writer.settle()
    journal, partial = resume_log_of(out).read_bytes(), partial_of(out).read_bytes()
    wrap_rows_in_hdf5(partial_of(out), contract(num_samples=10), [str(k) for k in range(10)], None, [], (0, 12, 12))
    around = partial_of(out).read_bytes()
    for cut in (8, 100, 5000, ROWS_AT, ROWS_AT + 480, len(around) - 1, len(around)):
        torn = around[:cut] + partial[cut:] if cut < len(partial) else around[:cut]
        partial_of(out).write_bytes(torn)
        resume_log_of(out).write_bytes(journal)
        run(out)
        assert out.read_bytes() == uninterrupted, cut
        out.unlink()


def test_resuming_keeps_what_was_written(tmp_path):
    run(tmp_path / "a.h5", until=4)
    with StoreWriter(tmp_path / "a.h5", PROMISE, range(12), {"crop": "adm"}) as writer:
        assert (writer.state.end, writer.state.rows, writer.state.upscaled) == (8, 7, 4)
        assert writer.state.skipped == [(3, "bad")]


def test_another_run_on_the_same_file_is_refused(tmp_path):
    with (
        StoreWriter(tmp_path / "a.h5", PROMISE, range(12), {}),
        pytest.raises(DiscliError, match="Another run is writing"),
    ):
        StoreWriter(tmp_path / "a.h5", PROMISE, range(12), {})


def test_going_on_with_other_settings_is_refused_and_named(tmp_path):
    run(tmp_path / "a.h5", until=2)
    before = partial_of(tmp_path / "a.h5").read_bytes()
    with pytest.raises(DiscliError, match="begun with crop adm, now resize") as refused:
        StoreWriter(tmp_path / "a.h5", PROMISE, range(12), {"crop": "resize"})
    assert "a.h5.partial" in refused.value.hint
    assert partial_of(tmp_path / "a.h5").read_bytes() == before


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    write_store(tmp_path / "a.h5", ROWS, PROMISE)
    with pytest.raises(DiscliError, match="there already"):
        StoreWriter(tmp_path / "a.h5", PROMISE, range(12), {})
    assert len(open_store(tmp_path / "a.h5")) == 10
    assert not resume_log_of(tmp_path / "a.h5").exists()


def test_too_little_room_is_refused_before_anything_is_written(tmp_path):
    bytes_free = shutil.disk_usage(tmp_path).free
    count = 4 * bytes_free // ROW_BYTES
    with pytest.raises(DiscliError, match=r"needs [\d.e+]+ [GT]B, .* has .*B free"):
        StoreWriter(tmp_path / "a.h5", contract(num_samples=count), range(count), {})
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder.h5").mkdir()
    for out in (tmp_path / "file" / "a.h5", tmp_path / "folder.h5", Path("/proc/discli/a.h5")):
        with pytest.raises(DiscliError, match="Cannot write") as refused:
            StoreWriter(out, PROMISE, range(12), {})
        assert refused.value.hint == "Choose another --out."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_is_said_so_and_nothing_is_lost(tmp_path, uninterrupted):
    out = tmp_path / "a.h5"
    run(out, until=2)
    with StoreWriter(out, PROMISE, range(12), {"crop": "adm"}) as writer:
        file, writer._file = writer._file, Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115
        # The thread that writes decides whether the first to hear of it is an append or the end.
        with pytest.raises(DiscliError, match="No space left") as refused:
            feed_and_settle(writer)
        assert "resumes" in refused.value.hint
        file.close()
    run(out)
    assert out.read_bytes() == uninterrupted
