"""Which samples a step trains on, and having them ready in time."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from discli.runtime.rng import RngStream, permutation, uniform


class Source(Protocol):
    """What a data file offers; `discli.data.Store` is one."""

    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, flip: np.ndarray | None) -> Tensor: ...

    def read_grid(self, name: str, indices: np.ndarray, flip: np.ndarray | None) -> Tensor: ...


class Batch(NamedTuple):
    """This process's share of one step. Random streams are keyed by ``slots``: places in the global batch.

    For a contrastive loss b is one more than the share: the last sample's neighbour.
    """

    step: int
    slots: Tensor  # (b,) int64
    indices: np.ndarray  # (b,) int64, places in the data file
    stored: Tensor  # (b, ...) as the data file holds them
    labels: Tensor | None  # (b,) int64
    features: dict[str, Tensor]  # (b, rows, columns, channels) by network, as the data file holds them


class BatchPlan:
    """(seed, step, rank, world size) to indices, without any state.

    Every epoch is a permutation of its own; a batch may run over the end of one into the next.
    The global batch of a step does not depend on the number of processes.

    Of images of several shapes each batch has one. Each shape has such a sequence of its own, and batches of all in
    an order drawn for each epoch: of a shape with n images, the batches up to the end of epoch e are the first
    ceil(e * n / batch_size). So until then each image has been seen e times, and at most a batch of each shape
    once more.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        only: np.ndarray | None = None,
        one_more: bool = False,
        shapes: np.ndarray | None = None,
    ) -> None:
        """``only``: (num_samples,) int64, the samples to train on; None: all that the data file has.

        ``shapes``: (num_samples,) int, of each sample to train on.
        ``one_more``: the slot behind this rank's too, another rank's first or the global batch's.
        """
        assert batch_size % world_size == 0
        assert only is None or len(only) == num_samples
        self._only = only
        share = batch_size // world_size
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.slots = torch.arange(rank * share, (rank + 1) * share + one_more) % batch_size
        self._orders: dict[int, np.ndarray] = {}  # the last few
        numbers = np.zeros(0, np.int64) if shapes is None else np.unique(shapes)
        self._groups = [np.flatnonzero(shapes == number) for number in numbers] if len(numbers) > 1 else []

    def indices(self, step: int) -> np.ndarray:
        """(b,) int64: the data file's samples at this rank's slots of the global batch."""
        if self._groups:
            group, batch = self._of_one_shape(step)
            samples = self._groups[group]
            chosen = samples[self._places(batch, len(samples), group)]
        else:
            chosen = self._places(step, self.num_samples)
        return np.asarray(chosen if self._only is None else self._only[chosen])

    def _places(self, batch: int, count: int, group: int = 0) -> np.ndarray:
        """This rank's of batch 0, 1, ... of ``count`` samples, in an order of their own for each pass over them."""
        positions = batch * self.batch_size + self.slots.numpy()
        epochs, places = np.divmod(positions, count)
        chosen = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self._permutation(int(epoch), count, group)[places[epochs == epoch]]
        return chosen

    def _of_one_shape(self, step: int) -> tuple[int, int]:
        """Which shape's batch a step has, and the how manieth of that shape, from 0."""
        epoch = step * self.batch_size // self.num_samples
        while (before := self._before(epoch)).sum() > step:  # at most a batch of each shape is begun early
            epoch -= 1
        counts = self._before(epoch + 1) - before
        order = self._permutation(epoch, int(counts.sum()), len(self._groups))
        place = int(order[step - before.sum()])
        group = int(np.searchsorted(np.cumsum(counts), place, side="right"))
        return group, int(before[group]) + place - int(counts[:group].sum())

    def _before(self, epoch: int) -> np.ndarray:
        """(groups,): how many batches of each shape there are before an epoch."""
        return np.array([-(-epoch * len(group) // self.batch_size) for group in self._groups])

    def _permutation(self, epoch: int, count: int, group: int) -> np.ndarray:
        """Of each shape's samples, and as a group behind them of an epoch's batches."""
        draw = epoch * (len(self._groups) + 1) + group if self._groups else epoch
        if draw not in self._orders:
            if len(self._orders) > 2 * len(self._groups) + 1:
                self._orders.pop(next(iter(self._orders)))
            self._orders[draw] = permutation(self.seed, draw, count).numpy()
        return self._orders[draw]


class Feed:
    """Reads batches ahead of the loop in one thread, from ``start`` on, in order."""

    def __init__(
        self,
        source: Source,
        plan: BatchPlan,
        start: int,
        stop: int,
        flip: bool,
        pin: bool,
        features: Sequence[str] = (),
    ) -> None:
        self._features = features
        self._source, self._plan, self._flip, self._pin = source, plan, flip, pin
        self._slots = plan.slots.pin_memory() if pin else plan.slots
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=3)
        self._closed = threading.Event()
        self.seconds_waited = 0.0
        self._thread = threading.Thread(target=self._work, args=(start, stop), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:  # a thread that waits to put needs room to notice
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next step's batch; whatever went wrong while reading is raised here."""
        started = time.monotonic()
        item = self._ready.get()
        self.seconds_waited += time.monotonic() - started
        if isinstance(item, BaseException):
            raise item
        return item

    def _work(self, start: int, stop: int) -> None:
        try:
            for step in range(start, stop):
                if self._closed.is_set():
                    return
                self._ready.put(self._read(step))
            self._ready.put(StopIteration())
        except BaseException as error:  # handed to the loop, which raises it
            self._ready.put(error)

    def _read(self, step: int) -> Batch:
        plan = self._plan
        indices = plan.indices(step)
        flip = None
        if self._flip:
            flip = (uniform(plan.seed, RngStream.FLIP, step, plan.slots) < 0.5).numpy()
        stored = self._source.read(indices, flip)
        labels = None if self._source.labels is None else torch.from_numpy(self._source.labels[indices])
        features = {name: self._source.read_grid(name, indices, flip) for name in self._features}
        if self._pin:
            features = {name: grid.pin_memory() for name, grid in features.items()}
            stored, labels = stored.pin_memory(), None if labels is None else labels.pin_memory()
        return Batch(step, self._slots, indices, stored, labels, features)
