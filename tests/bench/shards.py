"""Opening many data files as one, and reading batches anywhere in them, in processor time of one thread.

``python -m tests.bench.shards [FILES]`` (1,000 by default, of 20 images each of 1,000 classes): opening them beside
opening their virtual merge and their real one; batches of 256 from mappings that hold no handle (what discli does),
from a least-recently-used set of 64 numpy.memmap, and from the merged file. Contenders take turns; the best of rounds.
"""

import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from discli.data.layout import ROWS_AT
from discli.data.merge import merge_parts, merge_virtually, share
from discli.data.shards import part_of
from discli.data.store import Store
from discli.data.writer import StoreWriter
from tests.data.files import contract, some_rows

_EACH, _ROUNDS, _BATCH, _KEPT = 20, 7, 256, 64


def make(out: Path, count: int) -> Path:
    """The pattern of ``count`` parts."""
    total = count * _EACH
    names = tuple(f"class {k:04d}" for k in range(1000))
    rows = some_rows(total, contract(resolution=32))
    for i in range(count):
        positions = share(total, (i, count))
        promise = contract(resolution=32, shard=(i, count), num_samples=len(positions), class_names=names)
        with StoreWriter(part_of(out, (i, count)), promise, positions, {}) as writer:
            writer.append(rows[positions.start : positions.stop], positions.stop)
            measured = writer.settle().moments.of_contract(promise.codec)
            finished = promise.model_copy(update=measured._asdict())
            labels = np.arange(positions.start, positions.stop) % 1000
            places = (positions.start, positions.stop, total)
            writer.finish(finished, [f"{k}.png" for k in positions], labels, [], places)
    return out.with_name(f"{out.stem}.shard-*-of-{count}.h5")


class FewOpen:
    """Rows of the same files through numpy.memmap, at most 64 of them at once."""

    def __init__(self, store: Store) -> None:
        self._store, self._open = store, OrderedDict[int, np.ndarray]()
        self._starts = np.array([shard.start for shard in store.shards])

    def read(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty((len(indices), *self._store.rows.shape[1:]), self._store.rows.dtype)
        which = np.searchsorted(self._starts, indices, "right") - 1
        for number in np.unique(which).tolist():
            places = np.flatnonzero(which == number)
            found[places] = self._piece(number)[indices[places] - self._starts[number]]
        return found

    def _piece(self, number: int) -> np.ndarray:
        if number not in self._open:
            shard = self._store.shards[number]
            self._open[number] = np.memmap(shard.path, shard.rows.dtype, "r", ROWS_AT, shard.rows.shape)
            if len(self._open) > _KEPT:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]


def take_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> None:
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.thread_time()
            run()
            best[name] = min(best[name], time.thread_time() - started)
    for name, seconds in best.items():
        print(f"  {name:32} {seconds * 1e3:10.2f} ms")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        pattern = make(Path(folder) / "a.h5", count)
        virtual = merge_virtually(Path(folder) / "v.h5", sorted(Path(folder).glob(pattern.name))).path
        merged = merge_parts(Path(folder) / "a.h5").path
        handles = len(list(Path("/proc/self/fd").iterdir()))
        print(f"opening {count:,} files")
        opened = {"parts": pattern, "virtual": virtual, "merged": merged}
        take_turns({name: lambda path=path: Store(path) for name, path in opened.items()}, _ROUNDS)  # type: ignore[misc]
        stores = {name: Store(path) for name, path in opened.items()}
        print(f"  handles held: {len(list(Path('/proc/self/fd').iterdir())) - handles}")
        print(f"a batch of {_BATCH}")
        few, random = FewOpen(stores["parts"]), np.random.default_rng(0)
        order = iter([random.integers(0, len(stores["parts"]), _BATCH) for _ in range(400 * 3)])
        readers = {
            "parts": stores["parts"].read,
            f"parts, {_KEPT} memmaps open": few.read,
            "merged": stores["merged"].read,
        }
        take_turns({name: lambda read=read: read(next(order)) for name, read in readers.items()}, 400)  # type: ignore[misc]


if __name__ == "__main__":
    main()
