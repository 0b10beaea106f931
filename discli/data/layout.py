"""How a data file lies on disk: an HDF5 file whose rows can be written first and the HDF5 around them last.

Rows are appended one after another from ROWS_AT on, so the file is complete up to its last row at every
moment, and nobody has to know beforehand how many images turn out to be readable. At the end HDF5
writes its own header, labels and names around the rows, which then are one contiguous dataset, open to
h5py and to a memory map alike.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from discli.data.channel_moments import ChannelMoments
from discli.recipe.contract import DataContract

Numbers = npt.NDArray[np.uint8]  # of shapes

FORMAT = "discli-data/1"
UNFINISHED = b"discli encode has not finished this file\n"
SIGNATURE = b"\x89HDF\r\n\x1a\n"  # with which every HDF5 file begins
_PAGE = 4096
ROWS_AT = 3 * _PAGE  # behind HDF5's superblock, the root group and the dataset's header, each on a page of its own
_LAYOUT: dict[str, Any] = {"libver": ("v110", "v110"), "alignment_threshold": 1, "alignment_interval": _PAGE}


class _HeaderlessFile(io.FileIO):
    """An existing file that looks empty to HDF5: what lies in it already is written around, not over."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+b")
        self._end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END:
            offset, whence = self._end + offset, os.SEEK_SET
        return super().seek(offset, whence)

    def write(self, data: object, /) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        at = self.tell()
        written = 0
        while written < view.nbytes:
            written += super().write(view[written:])
        self._end = max(self._end, at + written)
        return written

    def truncate(self, size: int | None = None, /) -> int:
        assert size is not None
        self._end = size
        return super().truncate(size)


def wrap_rows_in_hdf5(
    path: Path,
    contract: DataContract,
    names: Sequence[str],
    labels: npt.NDArray[np.int64] | None,
    skipped: Sequence[str],
    positions: tuple[int, int, int],
    moments: ChannelMoments | None = None,
    shapes: Numbers | None = None,
) -> None:
    """Turns ``path``, rows from ROWS_AT on, into an HDF5 file, and marks it finished as the last thing.

    ``positions``: (start, stop, total) of the source's images that were dealt with here. ``moments``: exact sums over
    a part, so that parts have together the mean and standard deviation that one file would have.
    """
    shape = (contract.num_samples, *contract.row_shape)
    with _HeaderlessFile(path) as raw:
        with h5py.File(raw, "w", driver="fileobj", **_LAYOUT) as file:
            _allocate_samples(file, shape, contract.dtype)
            describe_rows(file, contract, names, labels, skipped, positions, shapes)
            if moments is not None:
                file.attrs["moments"] = json.dumps(asdict(moments))
            file.attrs["finished"] = False
        os.fsync(raw.fileno())
    with h5py.File(path, "r+") as file:
        file.attrs["finished"] = True
    with path.open("r+b") as done:
        os.fsync(done.fileno())


def describe_rows(
    file: h5py.File,
    contract: DataContract,
    names: Sequence[str],
    labels: npt.NDArray[np.int64] | None,
    skipped: Sequence[str],
    positions: tuple[int, int, int],
    shapes: Numbers | None,
) -> None:
    """All of a file but the rows and their features. ``shapes`` (n,): of each, the number in ``contract.sizes``."""
    if shapes is not None:
        file.create_dataset("shapes", data=shapes)
    if labels is not None:
        file.create_dataset("labels", data=labels)
    file.create_dataset("names", data=list(names), shape=(len(names),), dtype=h5py.string_dtype())
    file.create_dataset("skipped", data=list(skipped), shape=(len(skipped),), dtype=h5py.string_dtype())
    file.attrs["format"] = FORMAT
    file.attrs["positions"] = np.array(positions, dtype=np.int64)
    # As a dataset: the names of a thousand classes do not fit into an attribute.
    file.create_dataset("contract", data=contract.model_dump_json(), dtype=h5py.string_dtype())


def by_shape(shapes: Numbers) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each shape's number that is there, and the places of its images, rising."""
    for number in np.unique(shapes).tolist():
        yield number, np.flatnonzero(shapes == number)


def open_to_grow(path: Path) -> h5py.File:
    """A finished file to add datasets to, on pages of their own. Nobody else may read it meanwhile."""
    return h5py.File(path, "r+", **_LAYOUT)


def set_finished(path: Path, finished: bool) -> None:
    """Whether an HDF5 file can be opened as such, by its first bytes.

    HDF5 has no safe way: killed while it has a file open for writing, it leaves a mark, and opens the file no more.
    """
    with path.open("r+b", buffering=0) as file:
        file.write(SIGNATURE if finished else UNFINISHED[: len(SIGNATURE)])
        os.fsync(file.fileno())


def allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str) -> int | None:
    """A dataset, contiguous and neither filled nor written; gives its place in the file, None of an empty one."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # or no two files would be alike
    kind = h5py.h5t.py_create(np.dtype(dtype))
    offset: int | None = h5py.h5d.create(
        file.id, name.encode(), kind, h5py.h5s.create_simple(shape), creation
    ).get_offset()
    return offset


def _allocate_samples(file: h5py.File, shape: tuple[int, ...], dtype: str) -> None:
    offset = allocate(file, "samples", shape, dtype)
    assert offset in (ROWS_AT, None), "HDF5 puts the first dataset elsewhere than it used to"


def check_layout() -> None:
    """Asserts, before hours of work, that this HDF5 puts rows where ``wrap_rows_in_hdf5`` wants them."""
    with h5py.File(io.BytesIO(), "w", **_LAYOUT) as file:
        _allocate_samples(file, (1, 3, 8, 8), "uint8")
