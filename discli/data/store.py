"""Reading a data file: random access to samples as fast as memory, order and flips chosen by the caller."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from discli.data.opening import opened, shards_at
from discli.data.shards import JoinedRows, check_together, in_order, joined_contract, whole_name
from discli.recipe.data_files import is_name
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
        shards, promised = shards_at(path)
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
            with opened(shard.path) as held:
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
