"""Parts make one file, and only all of them do."""

import numpy as np
import pytest

from discli.data.merge import find_parts, merge_parts, share
from discli.data.shards import part_of
from discli.data.store import open_store
from discli.data.writer import StoreWriter
from discli.runtime.errors import DiscliError
from tests.data.files import contract, some_rows

ROWS = some_rows(11, contract())


def write_part(out, i, n, align=1, **changes):
    positions = share(len(ROWS), (i, n), align)
    promise = contract(shard=(i, n), num_samples=len(positions), **changes)
    with StoreWriter(part_of(out, (i, n)), promise, positions, {}) as writer:
        writer.append(ROWS[positions.start : positions.stop], positions.stop)
        writer.settle()
        names = [f"{k}.png" for k in positions]
        labels = np.array([k % 2 for k in positions], dtype=np.int64)
        skipped = [f"bad{i}.png\tempty"]
        finished = promise.model_copy(update={"num_skipped": 1, "num_upscaled": i})
        writer.finish(finished, names, labels, skipped, (positions.start, positions.stop, len(ROWS)))


@pytest.mark.parametrize("n", [1, 3, 4, 13])
def test_parts_make_one_file(n, tmp_path):
    for i in range(n):
        write_part(tmp_path / "a.h5", i, n)
    merge_parts(tmp_path / "a.h5")
    store = open_store(tmp_path / "a.h5")
    assert (store.read(np.arange(11)).numpy() == ROWS).all()
    assert store.names == [f"{k}.png" for k in range(11)]
    assert store.labels.tolist() == [k % 2 for k in range(11)]
    assert store.skipped == [f"bad{i}.png\tempty" for i in range(n)]
    assert (store.contract.num_skipped, store.contract.num_upscaled) == (n, sum(range(n)))
    assert store.contract.shard is None
    assert store.positions == (0, 11, 11)


def test_statistics_of_the_whole_are_computed_anew(tmp_path):
    for n in (1, 4):
        for i in range(n):
            write_part(tmp_path / f"{n}.h5", i, n)
    four, one = merge_parts(tmp_path / "4.h5").contract, merge_parts(tmp_path / "1.h5").contract
    assert (four.channel_mean, four.channel_std) == (one.channel_mean, one.channel_std)
    assert four.channel_mean


def test_shares_cover_everything_once_in_whole_slices():
    for total, n, align in [(11, 4, 1), (11, 4, 4), (1000, 7, 64), (3, 8, 1), (0, 2, 1)]:
        shares = [share(total, (i, n), align) for i in range(n)]
        assert [position for part in shares for position in part] == list(range(total))
        assert all(part.start % align == 0 for part in shares if part)


def test_a_merge_that_was_stopped_goes_on(tmp_path):
    for i in range(3):
        write_part(tmp_path / "a.h5", i, 3)
    heard = []

    def stop(rows):
        heard.append(rows)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_parts(tmp_path / "a.h5", advance=stop)
    assert not (tmp_path / "a.h5").exists()
    again = []
    merge_parts(tmp_path / "a.h5", advance=again.append)
    assert again[0] > 0
    assert (open_store(tmp_path / "a.h5").read(np.arange(11)).numpy() == ROWS).all()


def test_missing_parts_are_named(tmp_path):
    for i in (0, 2):
        write_part(tmp_path / "a.h5", i, 4)
    with pytest.raises(DiscliError, match=r"2 of 4 parts .*a\.shard-1-of-4\.h5, a\.shard-3-of-4\.h5"):
        find_parts(tmp_path / "a.h5")


def test_no_parts_or_parts_of_two_runs_are_said_so(tmp_path):
    with pytest.raises(DiscliError, match="no finished parts"):
        find_parts(tmp_path / "a.h5")
    write_part(tmp_path / "a.h5", 0, 2)
    write_part(tmp_path / "a.h5", 0, 3)
    with pytest.raises(DiscliError, match="parts of 2 and of 3"):
        find_parts(tmp_path / "a.h5")


def test_parts_of_different_sources_or_settings_are_refused(tmp_path):
    write_part(tmp_path / "a.h5", 0, 2)
    write_part(tmp_path / "a.h5", 1, 2, crop="resize")
    with pytest.raises(DiscliError, match=r"has crop adm, a\.shard-1-of-2\.h5 has resize"):
        merge_parts(tmp_path / "a.h5")


def test_parts_that_leave_images_out_are_refused(tmp_path):
    write_part(tmp_path / "a.h5", 0, 2)
    write_part(tmp_path / "a.h5", 1, 2, align=8)
    with pytest.raises(DiscliError, match=r"begins at image 8, the part before it ends at 5"):
        merge_parts(tmp_path / "a.h5")
