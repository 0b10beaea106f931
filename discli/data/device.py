"""A data file held whole on the training device, so that a batch costs one gather and no copy."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from discli.data.store import Store
from discli.runtime.console import format_bytes
from discli.runtime.errors import DiscliError

_CHUNK_BYTES = 1 << 28


class OnDevice:
    """Reads as `Store` does, bit for bit, with the samples on ``device``; labels stay on the CPU."""

    def __init__(self, store: Store, device: torch.device) -> None:
        """Raises DiscliError when the device's memory does not hold the file."""
        self.labels = store.labels
        self.read_grid = store.read_grid  # features stay where the file is: they take more room than the samples
        self._unpacked = store.unpacked
        self._flip_stored = store.contract.flip_stored
        self._device = device
        rows = store.rows
        try:
            first = torch.from_numpy(np.array(rows[:1]))
            self._rows = torch.empty(rows.shape, dtype=first.dtype, device=device)
            step = max(1, _CHUNK_BYTES // max(1, first.nbytes))
            for start in range(0, len(rows), step):
                self._rows[start : start + step] = torch.from_numpy(np.array(rows[start : start + step]))
        except (RuntimeError, MemoryError):  # torch.OutOfMemoryError is one of the first
            raise DiscliError(
                f"{store.path} takes {format_bytes(rows.nbytes)}, more than is free on {device}.",
                'Use data.cache = "none", which maps the file, or "ram".',
            ) from None

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None = None) -> Tensor:
        """See `Store.read`."""
        chosen = torch.from_numpy(indices).to(self._device)
        mirrored = None if flip is None else torch.from_numpy(np.asarray(flip)).to(self._device)
        if self._flip_stored:  # rows of two orientations, one after the other
            place = 2 * chosen + (0 if mirrored is None else mirrored)
            return self._unpacked(self._rows.flatten(0, 1).index_select(0, place), indices)
        samples = self._unpacked(self._rows.index_select(0, chosen), indices)
        if mirrored is None:
            return samples
        return torch.where(mirrored.reshape(-1, *[1] * (samples.ndim - 1)), samples.flip(-1), samples)
