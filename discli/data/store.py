"""Reading a data file: random access to samples as fast as memory, order and flips chosen by the caller."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from discli.data.channel_moments import ChannelMoments
from discli.data.layout import FORMAT, UNFINISHED
from discli.data.mapped import mapped
from discli.data.shards import JoinedRows, Shard, check_together, in_order, joined_contract, whole_name
from discli.data.writer import partial_of
from discli.recipe.contract import DataContract, FeatureGrid
from discli.recipe.data_files import files_of, is_name
from discli.runtime.errors import DiscliError

if TYPE_CHECKING:
    from torch import Tensor

Cache = Literal["none", "ram"]


class Store:
    """A finished data file, or several read as one. Pickles as its path, so that other processes map it anew.

    ``contract`` is that of all files together, ``shards`` are the files in the order of their samples, and
    ``labels`` is (n,) int64, or None where there are no classes; ``shapes`` is (n,) uint8, the number of each sample's
    in ``contract.sizes``, or None where there is one. No file stays open.
    """

    def __init__(self, path: str | Path, cache: Cache = "none", *, parts: bool = False) -> None:
        """See ``open_store``; ``parts`` allows a single part of a sharded encode."""
        path = Path(path)
        self.path, self.cache, self._parts = path, cache, parts
        shards, promised = _shards(path)
        if parts and len(shards) == 1:
            self.contract, self.shards = shards[0].contract, shards
        else:
            self.shards = in_order(shards)
            check_together(self.shards)
            self.contract = joined_contract(self.shards)
            if not len(self):
                raise DiscliError(f"No part of {self.title} holds an image.", "See their .skipped.txt lists.")
        if promised is not None and self.contract.model_copy(update={"grids": promised.grids}) != promised:
            raise DiscliError(
                f"{path} is virtual, and its parts are not those that it was merged from.",
                f"Delete it and merge again: discli encode --merge {path} --virtual",
            )
        if len(self.shards) == 1:
            first = self.shards[0]
            self.positions, self.labels, self.shapes = first.positions, first.labels, first.shapes
            self.rows: npt.NDArray[Any] | JoinedRows = first.rows
            # (n, rows, columns, channels) float16 of each network that has seen the images; mapped whatever the cache.
            self.grids: dict[str, npt.NDArray[np.float16] | JoinedRows] = {**first.grids}
        else:
            total = sum(shard.positions[1] - shard.positions[0] for shard in self.shards)
            self.positions = (0, total, total)
            labels = [shard.labels for shard in self.shards if shard.labels is not None]
            self.labels = np.concatenate(labels) if labels else None
            shapes = [shard.shapes for shard in self.shards if shard.shapes is not None]
            self.shapes = np.concatenate(shapes) if shapes else None
            self.rows = JoinedRows([shard.rows for shard in self.shards])
            names = [grid.name for grid in self.contract.grids]
            self.grids = {name: JoinedRows([shard.grids[name] for shard in self.shards]) for name in names}
        if cache == "ram":
            self.rows = np.array(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.cache, self._parts)

    def __len__(self) -> int:
        return self.contract.num_samples

    @property
    def names(self) -> list[str]:
        """Of the images in the source, one per sample; read from the file each time."""
        return self._strings("names")

    @property
    def skipped(self) -> list[str]:
        """Name, tab, reason, of each image that is not in the file."""
        return self._strings("skipped")

    @property
    def title(self) -> str:
        """What it is called without its folder; parts by the name they would have merged."""
        if is_name(self.path):
            return self.path.name
        first = self.shards[0].path.name
        return whole_name(first) if whole_name(first) != first else f"{first} and {len(self.shards) - 1:,} more"

    def beside(self, suffix: str) -> Path:
        """Where a file about it lies, that ends so: beside it, or beside the first of its files."""
        if is_name(self.path):
            return self.path.with_name(self.path.stem + suffix)
        first = self.shards[0].path
        return first.with_name(Path(whole_name(first.name)).stem + suffix)

    def read(self, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None = None) -> "Tensor":
        """Samples of one shape in the order asked for, as stored: (b, 3, H, W) uint8, or (b, 2C, h, w) mean and std.

        ``flip`` (b,) mirrors samples left to right: exactly for pixels; of latents, by taking the
        stored latent of the mirrored image, since a mirrored latent is not the same thing.
        """
        import torch

        if self.contract.flip_stored:
            orientation = np.zeros(len(indices), np.intp) if flip is None else np.asarray(flip, np.intp)
            return self.unpacked(torch.from_numpy(self.rows[indices, orientation]), indices)
        samples = self.unpacked(torch.from_numpy(self.rows[indices]), indices)
        if flip is not None and flip.any():
            assert self.contract.can_flip, "latents of one orientation cannot be flipped; check_fits refuses"
            chosen = torch.from_numpy(np.asarray(flip))
            samples[chosen] = samples[chosen].flip(-1)
        return samples

    def unpacked(self, rows: "Tensor", indices: npt.NDArray[np.int64]) -> "Tensor":
        """Rows (b, ...) of samples of one shape as `read` gives them."""
        if self.shapes is None:
            return rows
        first, *others = np.unique(self.shapes[indices]).tolist() or [0]
        assert not others, "samples of several shapes; see `in_turn`"
        samples: Tensor = self.contract.unpacked(rows, first)
        return samples

    def in_turn(self, indices: npt.NDArray[np.int64], most: int) -> Iterator[npt.NDArray[np.int64]]:
        """``indices`` in stretches that `read` takes: in their order, of one shape each and at most so many."""
        borders = [] if self.shapes is None else (np.flatnonzero(np.diff(self.shapes[indices])) + 1).tolist()
        for start, stop in pairwise([0, *borders, len(indices)]):
            for first in range(start, stop, most):
                yield indices[first : min(first + most, stop)]

    def read_grid(
        self, name: str, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None = None
    ) -> "Tensor":
        """A network's features of samples in the order asked for: (b, rows, columns, channels) float16.

        ``flip`` (b,) mirrors them left to right, as the features of the mirrored image are nearly.
        """
        import torch

        features = self.grids[name][indices]
        if flip is not None:
            features[flip] = features[flip, :, ::-1]
        return torch.from_numpy(features)

    def _strings(self, dataset: str) -> list[str]:
        found: list[str] = []
        for shard in self.shards:
            with _opened(shard.path) as held:
                texts = [text.decode("utf-8") for text in held[dataset][...].tolist()]
                if dataset == "names" and len(texts) != len(shard):
                    raise ValueError(f"{len(texts)} names of {len(shard)} samples")
                found += texts
        return found


def open_store(path: str | Path, cache: Cache = "none") -> Store:
    """Finished data files: a name, a pattern, or several of either with commas between, read as one.

    ``cache="ram"`` reads the samples into memory first, instead of mapping them. Raises DiscliError for a file that
    is missing, unfinished, truncated, corrupt, or not ours, for a part alone, and for files that are not of one
    data set (`discli.data.shards`).
    """
    return Store(path, cache)


def _reopen(path: Path, cache: Cache, parts: bool) -> Store:
    return Store(path, cache, parts=parts)


def _shards(where: Path) -> tuple[list[Shard], DataContract | None]:
    """All files that ``where`` names, in that order; and what a virtual file promises of the parts it names."""
    files = files_of(where)
    if len(files) > 1:
        return [_shard(file) for file in files], None
    with _opened(files[0]) as held:
        if not held["samples"].is_virtual:
            return [_read(files[0], held)], None
        promised = _contract(held["contract"], files[0])
        named = [Path(source.file_name) for source in held["samples"].virtual_sources()]
    found = [files[0].parent / file for file in named]
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise DiscliError(
            f"{files[0]} is virtual: it reads from {missing[0]}, which is not there"
            + (f", nor are {len(missing) - 1:,} more." if len(missing) > 1 else "."),
            f"Move it back, or delete {files[0].name} and merge again where its parts are.",
        )
    return [_shard(file) for file in found], promised


def _shard(path: Path) -> Shard:
    with _opened(path) as held:
        if held["samples"].is_virtual:
            raise DiscliError(f"{path} is virtual, and so no part of more.", "Name the files that it was merged from.")
        return _read(path, held)


def _read(path: Path, held: "_Held") -> Shard:
    contract = _contract(held["contract"], path)
    start, stop, total = held.attribute("positions")
    moments = held.attribute("moments")
    shape = (contract.num_samples, *contract.row_shape)
    return Shard(
        path,
        contract,
        (start, stop, total),
        _labels(held, contract),
        _mapped(held, "samples", shape, contract.dtype, path),
        {
            grid.name: _mapped(held, grid.dataset, grid_shape(grid, contract.num_samples), "float16", path)
            for grid in contract.grids
        },
        _shape_numbers(held, contract),
        ChannelMoments(**json.loads(moments)) if moments is not None else None,
    )


@contextmanager
def _opened(path: Path) -> Iterator["_Held"]:
    """A finished file. Whatever is wrong with what is read within becomes a DiscliError."""
    try:
        file = _file(path)
        try:
            yield _Held(file, path)
        finally:
            file.close()
    except DiscliError:
        raise
    except Exception as error:  # what h5py and the HDF5 library stumble over: KeyError, RuntimeError, TypeError, ...
        why = error if isinstance(error, ValueError | OSError) else "it is not as discli encode writes"
        raise DiscliError(
            f"{path} is corrupt ({why}).",
            "Copy it again from where it was written, or encode it again.",
        ) from None


def grid_shape(grid: FeatureGrid, samples: int) -> tuple[int, int, int, int]:
    """Of the dataset that holds it."""
    return (samples, *grid.side, grid.channels)


def _mapped(held: "_Held", name: str, shape: tuple[int, ...], dtype: str, path: Path) -> npt.NDArray[Any]:
    """All of a dataset, mapped. Raises ValueError where it is not what the contract says."""
    rows = held[name]
    offset = rows.id.get_offset()
    if rows.shape != shape or rows.dtype != np.dtype(dtype):
        raise ValueError(f"{name} are {rows.dtype} {rows.shape}, the contract says {dtype} {shape}")
    if not rows.size:
        return np.empty(shape, rows.dtype)
    if offset is None:
        raise ValueError(f"{name} are not stored in one piece")
    return mapped(path, offset, shape, rows.dtype)


def _labels(held: "_Held", contract: DataContract) -> npt.NDArray[np.int64] | None:
    """(n,), each the number of a class. Raises ValueError where they are not."""
    if "labels" not in held:
        if contract.num_classes:
            raise ValueError("names of classes, but no labels")
        return None
    labels = held["labels"][...]
    if labels.shape != (contract.num_samples,) or labels.dtype != np.int64:
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, of {contract.num_samples} samples")
    if len(labels) and (labels.min() < 0 or labels.max() >= contract.num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {contract.num_classes} classes")
    return np.asarray(labels)


def _shape_numbers(held: "_Held", contract: DataContract) -> npt.NDArray[np.uint8] | None:
    """(n,), each the number of a shape. Raises ValueError where they are not."""
    if not contract.shapes:
        return None
    shapes = held["shapes"][...]
    if shapes.shape != (contract.num_samples,) or shapes.dtype != np.uint8:
        raise ValueError(f"shapes are {shapes.dtype} {shapes.shape}, of {contract.num_samples} samples")
    if len(shapes) and shapes.max() >= len(contract.shapes):
        raise ValueError(f"shape {shapes.max()}, of {len(contract.shapes)}")
    return np.asarray(shapes)


def _file(path: Path) -> h5py.h5f.FileID:
    if path.is_dir():
        raise DiscliError(
            f"{path} is a folder, not a data file.",
            f"Make one of its images: discli encode {path} --res SIDE --out FILE.h5",
        )
    if not path.is_file():
        if partial_of(path).is_file():
            raise _unfinished(path)
        raise DiscliError(f"{path} does not exist.", "Write it with discli encode, or check --data.")
    with path.open("rb") as raw:
        start = raw.read(len(UNFINISHED))
    if start == UNFINISHED:
        raise _unfinished(path)
    try:
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        access.set_file_locking(False, True)
        return h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access)
    except OSError as error:
        if "truncated file" in str(error):
            raise DiscliError(
                f"{path} is cut short ({path.stat().st_size:,} bytes are there).",
                "Copy it again from where it was written, or encode it again.",
            ) from None
        raise DiscliError(
            f"{path} is not an HDF5 file that can be read.", "Give one that discli encode wrote."
        ) from None


class _Held:
    """What a finished file holds, by name, looked up when it is asked for: of a thousand files, that counts.

    HDF5 reads on in any other file that a link or a dataset's storage names: what was sent must be all that is read.
    But for samples and features in virtual storage, which HDF5 never reads here: the files that it names are opened
    as data files of their own (`_shards`).
    """

    def __init__(self, file: h5py.h5f.FileID, path: Path) -> None:
        self._root, self._path = h5py.h5g.open(file, b"/"), path
        if self.attribute("format") != FORMAT:
            raise DiscliError(
                f"{path} is an HDF5 file, but discli encode did not write it.", "Encode its images first."
            )
        if not self.attribute("finished"):
            raise _unfinished(path)

    def attribute(self, name: str) -> Any:
        """None where there is none."""
        try:
            attribute = h5py.h5a.open(self._root, name.encode())
        except KeyError:
            return None
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
        found = value.tolist()
        return found.decode() if isinstance(found, bytes) else found

    def __contains__(self, name: str) -> bool:
        return bool(self._root.links.exists(name.encode()))  # which, unlike ``in``, does not follow a link

    def __getitem__(self, name: str) -> h5py.Dataset:
        # Asked before the dataset is touched, for a link is followed, and a file opened, by looking at it.
        if self._root.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            where = "a link"
        else:
            dataset = h5py.Dataset(h5py.h5d.open(self._root, name.encode()))
            storage = dataset.id.get_create_plist()
            virtual = storage.get_layout() == h5py.h5d.VIRTUAL and not name.startswith(("samples", "features."))
            if not (storage.get_external_count() or virtual):
                return dataset
            where = "external or virtual storage"
        raise DiscliError(
            f"{self._path} does not hold its {name}: {where} leads elsewhere.",
            "Encode again: discli encode writes one file.",
        )


def _contract(dataset: h5py.Dataset, path: Path) -> DataContract:
    try:
        return DataContract.model_validate_json(dataset[()])
    except ValidationError as error:
        what = ".".join(["contract", *(str(part) for part in error.errors()[0]["loc"])])
        raise DiscliError(
            f"{path} was written by another version of discli: its {what} is not understood here.",
            "Use that version, or encode again.",
        ) from None


def _unfinished(path: Path) -> DiscliError:
    return DiscliError(f"{path} is unfinished.", "Run the same discli encode command again: it resumes.")
