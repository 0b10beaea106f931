"""``python -m tests.bench.encode [ZIP]``: encoding small pictures, beside the way most projects do it.

Theirs: a torch DataLoader over PIL pictures in the zip, one .npy file per picture. Ours: ``discli encode
--codec rgb``, to a finished file. The same pictures, the same number of workers, turn about in one run,
start-up and listing included on both sides. Also: the pipeline against its decoding stage alone, and
random reads from the finished file against h5py's own.
"""

import io
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

# Worker processes import this module anew, as they do discli.cli when a user encodes: nothing heavy up here.
if TYPE_CHECKING:
    import torch

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-train.zip"
ROUNDS = 3
WORKERS = 2


class Pictures:
    """A map-style dataset of (uint8 tensor, class) from a zip with a folder per class."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.names = sorted(archive.namelist())
        classes = sorted({name.split("/")[-2] for name in self.names})
        self.labels = [classes.index(name.split("/")[-2]) for name in self.names]
        self.archive: zipfile.ZipFile | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> "tuple[torch.Tensor, int]":
        from PIL import Image
        from torchvision.transforms.functional import pil_to_tensor

        if self.archive is None:
            self.archive = zipfile.ZipFile(self.path)
        picture = Image.open(io.BytesIO(self.archive.read(self.names[index]))).convert("RGB")
        return pil_to_tensor(picture), self.labels[index]


def theirs(path: Path, folder: Path) -> int:
    import numpy as np
    from torch.utils.data import DataLoader

    count = 0
    for pictures, _labels in DataLoader(Pictures(path), batch_size=256, num_workers=WORKERS):
        for picture in pictures.numpy():
            np.save(folder / f"{count}.npy", picture)
            count += 1
    return count


def ours(path: Path, folder: Path) -> int:
    from discli.data.store import open_store
    from discli.encode import encode

    return len(open_store(encode(path, 32, out=folder / "data.h5", workers=WORKERS)))


def decoding_alone(path: Path, folder: Path) -> int:
    from discli.data.decoding import Preparation, Workers, decode_batches
    from discli.data.sources import open_source

    with Workers(WORKERS) as workers:
        source = open_source(path)
        batches = decode_batches(source, range(len(source)), 682, Preparation(32), workers)
        return sum(len(batch.pictures) for batch in batches)


def cpu_seconds() -> float:
    """Of this process and of the workers that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(job: Callable[[Path, Path], int], path: Path) -> tuple[float, float]:
    """Pictures per second of wall clock, and per second of processor time: the second bears a busy machine."""
    folder = Path(tempfile.mkdtemp())
    started, cpu_before = time.perf_counter(), cpu_seconds()
    count = job(path, folder)
    rates = count / (time.perf_counter() - started), count / (cpu_seconds() - cpu_before)
    shutil.rmtree(folder)
    return rates


def random_reads(path: Path) -> tuple[float, float]:
    """Samples per second, batches of 128 anywhere in the file: ours, h5py's fancy indexing."""
    import h5py
    import numpy as np

    from discli.data.store import open_store
    from discli.encode import encode

    folder = Path(tempfile.mkdtemp())
    store = open_store(encode(path, 32, out=folder / "data.h5", workers=WORKERS))
    batches = [np.random.default_rng(i).choice(len(store), 128, replace=False) for i in range(200)]
    with h5py.File(folder / "data.h5") as file:
        rows = file["samples"]
        rates = []
        for read in (store.read, lambda batch: rows[np.sort(batch)]):
            for batch in batches:  # once to have the file in memory, for both
                read(batch)
            started = time.perf_counter()
            for batch in batches:
                read(batch)
            rates.append(128 * len(batches) / (time.perf_counter() - started))
    shutil.rmtree(folder)
    return rates[0], rates[1]


def main() -> None:
    import torch
    import torchvision  # noqa: F401 - both are loaded before the clock starts

    from discli.console import stderr
    from discli.data.decoding import usable_cores

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    stderr.quiet = True
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {usable_cores()} cores (load {load:.1f} before), torch {torch.__version__}, {path.name}"
    )
    rates: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for job in (theirs, ours, decoding_alone):
            rates.setdefault(job.__name__, []).append(measure(job, path))
    for which, unit in enumerate(("pictures/s", "pictures per second of processor time")):
        for name, each in rates.items():
            values = [pair[which] for pair in each]
            print(f"{name:15} {statistics.median(values):9,.0f} {unit} ({', '.join(f'{v:,.0f}' for v in values)})")
        ratios = [one[which] / other[which] for one, other in zip(rates["ours"], rates["theirs"], strict=True)]
        print(f"ours / theirs   {statistics.median(ratios):9.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    mapped, fancy = random_reads(path)
    print(f"random reads    {mapped:9,.0f} samples/s, h5py {fancy:,.0f}: {mapped / fancy:.0f} times")


if __name__ == "__main__":
    main()
