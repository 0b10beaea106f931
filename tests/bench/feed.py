"""``python -m tests.bench.feed [CIFAR.zip [FOLDER [prepare]]]``: does training wait for its data?

Two files: CIFAR-10's 50,000 images, and 100,000 synthetic latents as ``discli encode`` stores those
of 256 px images (mean and standard deviation, both orientations, float16, 3.3 GB). For each:

- random reads of whole batches in samples per second, h5py's fancy indexing beside every ``data.cache``,
  turn about in one run;
- what the feed alone delivers, flips and all: a model that trains faster than that would wait;
- the share of time that a real training run waits, with a network so small that data matter most.

The files are kept in FOLDER where one is given; ``prepare`` writes them and measures nothing.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from discli.data.autoencoders.vae import VaeIdentity
from discli.data.device import OnDevice
from discli.data.encode import encode
from discli.data.store import Store, open_store
from discli.data.writer import StoreWriter
from discli.recipe.contract import DataContract
from discli.runs.logs import read_log
from discli.runtime.console import stderr
from discli.training.batches import BatchPlan, Feed
from discli.training.train import train
from tests.data.files import contract, finish

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10-train.zip"
LATENTS = 100_000
BATCH = 128
ROUNDS, READS = 7, 20
STEPS = 60

RECIPE = """
name = "feed"
[model]
embed_dim = 64
depth = 3
patch_size = 8
[data]
resolution = {resolution}
codec = "{codec}"
[train]
steps = {steps}
batch_size = {batch}
log_every = 10
preview_every = 0
tracker = "none"
"""


def write_latents(out: Path) -> Path:
    """Noise: what is in the samples doesn't matter, how many bytes they have does."""
    identity = VaeIdentity(vae="none", kind="AutoencoderKL", weights_sha256="0", scaling_factor=0.18215)
    promise: DataContract = contract(
        codec=identity, resolution=256, dtype="float16", flip_stored=True, class_names=(), num_samples=LATENTS
    )
    some = np.random.default_rng(0).random((1000, *promise.row_shape), np.float32).astype(np.float16)
    with StoreWriter(out, promise, range(LATENTS), {}) as writer:
        for start in range(0, LATENTS, len(some)):
            writer.append(some, start + len(some))
        finish(writer, promise)
    return out


def random_reads(path: Path) -> dict[str, float]:
    """Samples per second, batches drawn anywhere in the file; medians over rounds in which all take turns."""
    mapped, ram = open_store(path), open_store(path, "ram")
    device = OnDevice(ram, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with h5py.File(path) as file:
        rows = file["samples"]
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "h5py": lambda batch: rows[np.sort(batch)],
            "none": mapped.read,
            "ram": ram.read,
            "device": device.read,
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS):
            rng = np.random.default_rng(turn)
            batches = [rng.choice(len(mapped), BATCH, replace=False) for _ in range(READS)]
            for batch in batches:  # so that the file's pages are in memory for whoever comes first
                mapped.read(batch)
            for name, read in ways.items():
                started = time.perf_counter()
                for batch in batches:
                    read(batch)
                rates[name].append(BATCH * READS / (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in rates.items()}


def feed_alone(store: Store) -> float:
    """Samples per second with nobody to take them but a loop."""
    steps = ROUNDS * READS
    with Feed(store, BatchPlan(len(store), BATCH, 0), 0, steps, flip=True, pin=False) as feed:
        next(feed)  # the first one sorts the epoch
        started = time.perf_counter()
        for _ in range(steps - 1):
            next(feed)
        return BATCH * (steps - 1) / (time.perf_counter() - started)


def waiting(path: Path, folder: Path) -> tuple[float, float]:
    """(share of time spent waiting, images per second) of a real run, without its first log line."""
    store = open_store(path)
    recipe = folder / "feed.toml"
    codec, resolution = store.contract.codec.name, store.contract.resolution
    recipe.write_text(RECIPE.format(codec=codec, resolution=resolution.plain(), steps=STEPS, batch=BATCH))
    run = train(recipe, data=path, out=folder / f"run-{path.stem}")
    lines = read_log(run / "speed.jsonl")[1:]
    return statistics.mean(line["data_wait"] for line in lines), statistics.mean(
        line["images_per_second"] for line in lines
    )


def main() -> None:
    zipped = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    stderr.quiet = True
    print(
        f"{platform.machine()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} before), "
        f"torch {torch.__version__}, h5py {h5py.__version__}, batches of {BATCH}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kept = Path(sys.argv[2]) if len(sys.argv) > 2 else folder
        images, latents = kept / "images.h5", kept / "latents.h5"
        if not images.exists():
            encode(zipped, 32, out=images, workers=0)
        if not latents.exists():
            write_latents(latents)
        if sys.argv[3:] == ["prepare"]:
            return
        for path in (images, latents):
            store = open_store(path)
            print(f"{path.stem}: {len(store):,} samples of {store.rows[0].nbytes:,} bytes")
            rates = random_reads(path)
            for way, rate in rates.items():
                print(f"  {way:8} {rate:12,.0f} samples/s, {rate / rates['h5py']:7.1f} times h5py's fancy indexing")
            print(f"  the feed alone: {feed_alone(store):,.0f} samples/s")
            share, rate = waiting(path, folder)
            print(f"  training at {rate:,.0f} images/s waits {share:.2%} of the time")


if __name__ == "__main__":
    main()
