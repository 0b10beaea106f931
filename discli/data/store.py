"""Reading a data file: random access to samples as fast as memory, order and flips chosen by the caller."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from discli.data.layout import FORMAT, UNFINISHED
from discli.data.writer import partial_of
from discli.recipe.contract import DataContract, FeatureGrid
from discli.runtime.errors import DiscliError

if TYPE_CHECKING:
    from torch import Tensor

Cache = Literal["none", "ram"]


class Store:
    """A finished data file. Pickles as its path, so that other processes map it anew.

    ``labels`` is (n,) int64, or None for an unlabelled file.
    """

    def __init__(self, path: str | Path, cache: Cache = "none", *, parts: bool = False) -> None:
        """See ``open_store``; ``parts`` allows a part of a sharded encode."""
        path = Path(path)
        self.path, self.cache, self._parts = path, cache, parts
        with _opened(path) as file:
            self.contract = _contract(file, path)
            if self.contract.shard is not None and not parts:
                i, n = self.contract.shard
                raise DiscliError(
                    f"{path} is part {i} of {n} of a data file.", "Merge the parts first: discli encode --merge OUT.h5"
                )
            start, stop, total = file.attrs["positions"].tolist()
            self.positions: tuple[int, int, int] = (start, stop, total)
            self.labels: npt.NDArray[np.int64] | None = _labels(file, self.contract)
            shape = (self.contract.num_samples, *self.contract.row_shape)
            self.rows: npt.NDArray[Any] = _mapped(file, "samples", shape, self.contract.dtype, path)
            # (n, side, side, channels) float16 of each network that has seen the images; mapped whatever the cache.
            self.grids: dict[str, npt.NDArray[np.float16]] = {
                grid.name: _mapped(file, grid.dataset, grid_shape(grid, len(self)), "float16", path)
                for grid in self.contract.grids
            }
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

    def read(self, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None = None) -> "Tensor":
        """Samples in the order asked for, as stored: (b, 3, H, W) uint8, or (b, 2C, h, w) mean and std.

        ``flip`` (b,) mirrors samples left to right: exactly for pixels; of latents, by taking the
        stored latent of the mirrored image, since a mirrored latent is not the same thing.
        """
        import torch

        if self.contract.flip_stored:
            orientation = np.zeros(len(indices), np.intp) if flip is None else np.asarray(flip, np.intp)
            return torch.from_numpy(self.rows[indices, orientation])
        samples = torch.from_numpy(self.rows[indices])
        if flip is not None and flip.any():
            assert self.contract.can_flip, "latents of one orientation cannot be flipped; check_fits refuses"
            chosen = torch.from_numpy(np.asarray(flip))
            samples[chosen] = samples[chosen].flip(-1)
        return samples

    def read_grid(
        self, name: str, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None = None
    ) -> "Tensor":
        """A network's features of samples in the order asked for: (b, side, side, channels) float16.

        ``flip`` (b,) mirrors them left to right, as the features of the mirrored image are nearly.
        """
        import torch

        features = self.grids[name][indices]
        if flip is not None:
            features[flip] = features[flip, :, ::-1]
        return torch.from_numpy(features)

    def _strings(self, dataset: str) -> list[str]:
        with _opened(self.path) as file:
            found = [text.decode("utf-8") for text in file[dataset][...].tolist()]
            if dataset == "names" and len(found) != len(self):
                raise ValueError(f"{len(found)} names of {len(self)} samples")
            return found


def open_store(path: str | Path, cache: Cache = "none") -> Store:
    """A finished data file; ``cache="ram"`` reads it into memory first, instead of mapping it.

    Raises DiscliError for a file that is missing, unfinished, a part, truncated, corrupt, or not ours.
    """
    return Store(path, cache)


def _reopen(path: Path, cache: Cache, parts: bool) -> Store:
    return Store(path, cache, parts=parts)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Whatever is wrong with what is read within becomes a DiscliError."""
    try:
        with _file(path) as file:
            _check_whole(file, path)
            yield file
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
    return (samples, grid.side, grid.side, grid.channels)


def _mapped(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, path: Path) -> npt.NDArray[Any]:
    """All of a dataset, mapped. Raises ValueError where it is not what the contract says."""
    rows = file[name]
    offset = rows.id.get_offset()
    if rows.shape != shape or rows.dtype != np.dtype(dtype):
        raise ValueError(f"{name} are {rows.dtype} {rows.shape}, the contract says {dtype} {shape}")
    if not rows.size:
        return np.empty(shape, rows.dtype)
    if offset is None:
        raise ValueError(f"{name} are not stored in one piece")
    return np.memmap(path, rows.dtype, "r", offset, shape).view(np.ndarray)


def _labels(file: h5py.File, contract: DataContract) -> npt.NDArray[np.int64] | None:
    """(n,), each the number of a class. Raises ValueError where they are not."""
    if "labels" not in file:
        if contract.num_classes:
            raise ValueError("names of classes, but no labels")
        return None
    labels = file["labels"][...]
    if labels.shape != (contract.num_samples,) or labels.dtype != np.int64:
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, of {contract.num_samples} samples")
    if len(labels) and (labels.min() < 0 or labels.max() >= contract.num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {contract.num_classes} classes")
    return np.asarray(labels)


def _file(path: Path) -> h5py.File:
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
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "truncated file" in str(error):
            raise DiscliError(
                f"{path} is cut short ({path.stat().st_size:,} bytes are there).",
                "Copy it again from where it was written, or encode it again.",
            ) from None
        raise DiscliError(
            f"{path} is not an HDF5 file that can be read.", "Give one that discli encode wrote."
        ) from None


def _check_whole(file: h5py.File, path: Path) -> None:
    if file.attrs.get("format") != FORMAT:
        raise DiscliError(f"{path} is an HDF5 file, but discli encode did not write it.", "Encode its images first.")
    if not file.attrs.get("finished"):
        raise _unfinished(path)
    for name in file:
        _check_here(file, name, path)


def _check_here(file: h5py.File, name: str, path: Path) -> None:
    """HDF5 reads on in any other file that a link or a dataset's storage names: what was sent must be all that is read.

    Asked before the dataset is touched, for a link is followed, and a file opened, by looking at it.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        where = "a link"
    elif isinstance(dataset := file[name], h5py.Dataset) and (dataset.is_virtual or dataset.external):
        where = "external or virtual storage"
    else:
        return
    raise DiscliError(
        f"{path} does not hold its {name}: {where} leads elsewhere.", "Encode again: discli encode writes one file."
    )


def _contract(file: h5py.File, path: Path) -> DataContract:
    try:
        return DataContract.model_validate_json(file["contract"][()])
    except ValidationError as error:
        what = ".".join(["contract", *(str(part) for part in error.errors()[0]["loc"])])
        raise DiscliError(
            f"{path} was written by another version of discli: its {what} is not understood here.",
            "Use that version, or encode again.",
        ) from None


def _unfinished(path: Path) -> DiscliError:
    return DiscliError(f"{path} is unfinished.", "Run the same discli encode command again: it resumes.")
