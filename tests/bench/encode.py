"""``python -m tests.bench.encode [--rounds N] [ZIP]``: encoding small images, beside the way most projects do it.

Theirs: a torch DataLoader over PIL images in the zip, one .npy file per image. Ours: ``discli encode
--codec rgb``, to a finished file. The same images, the same number of workers, turn about in one run,
start-up and listing included on both sides. Also: the pipeline against its decoding stage alone, and
random reads from the finished file against h5py's own.

``--vae FOLDER ZIP``: instead, the pipeline at 256 px against the autoencoder alone, which is its slowest
stage by far on a CPU.

``--against TREE ZIP [--copies 20] [--res 64 128 256]``: instead, ``discli encode --codec rgb`` of this tree, without
and with --fast-decode, beside that of another checkout, each in a process of its own with two workers. Large
originals (../shared/data/imagenet-sample.zip), each ``copies`` times. Whether the two files hold the same pixels
is said.
"""

import argparse
import io
import os
import platform
import resource
import shutil
import statistics
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
WORKERS = 2


class Images:
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
        image = Image.open(io.BytesIO(self.archive.read(self.names[index]))).convert("RGB")
        return pil_to_tensor(image), self.labels[index]


def theirs(path: Path, folder: Path) -> int:
    import numpy as np
    from torch.utils.data import DataLoader

    count = 0
    for images, _labels in DataLoader(Images(path), batch_size=256, num_workers=WORKERS):
        for image in images.numpy():
            np.save(folder / f"{count}.npy", image)
            count += 1
    return count


def ours(path: Path, folder: Path) -> int:
    from discli.data.encode import encode
    from discli.data.store import open_store

    return len(open_store(encode(path, 32, out=folder / "data.h5", workers=WORKERS)))


def decoding_alone(path: Path, folder: Path) -> int:
    from discli.data.decoding import ImageTransform, Workers, decode_batches
    from discli.data.sources import open_source
    from discli.recipe.size import Size

    with Workers(WORKERS) as workers:
        source = open_source(path)
        batches = decode_batches(source, range(len(source)), 682, ImageTransform((Size(32, 32),)), workers)
        return sum(len(batch.images) for batch in batches)


def cpu_seconds() -> float:
    """Of this process and of the workers that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(job: Callable[[Path, Path], int], path: Path) -> tuple[float, float]:
    """Images per second of wall clock, and per second of processor time: the second bears a busy machine."""
    folder = Path(tempfile.mkdtemp())
    os.sync()  # or the job before this one goes on writing
    started, cpu_before = time.perf_counter(), cpu_seconds()
    count = job(path, folder)
    rates = count / (time.perf_counter() - started), count / (cpu_seconds() - cpu_before)
    shutil.rmtree(folder)
    return rates


def random_reads(path: Path) -> tuple[float, float]:
    """Samples per second, batches of 128 anywhere in the file: ours, h5py's fancy indexing."""
    import h5py
    import numpy as np

    from discli.data.encode import encode
    from discli.data.store import open_store

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


def through_autoencoder(vae: str) -> dict[str, Callable[[Path, Path], int]]:
    """Both orientations of each image, as encode stores them: the whole pipeline, and the autoencoder alone."""
    import numpy as np
    import torch

    from discli.data.autoencoders import open_codec
    from discli.data.decoding import ImageTransform, transform_image
    from discli.data.encode import encode
    from discli.data.sources import open_source
    from discli.recipe.size import Size

    codec = open_codec("vae", vae)
    kept: dict[Path, torch.Tensor] = {}

    def images(path: Path) -> torch.Tensor:
        if path not in kept:
            source = open_source(path)
            rows = [transform_image(source.read(i), ImageTransform((Size(256, 256),)))[0] for i in range(len(source))]
            kept[path] = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)
        return kept[path]

    def pipeline(path: Path, folder: Path) -> int:
        encode(path, 256, vae=vae, out=folder / "data.h5", device="cpu")
        return len(images(path))

    def autoencoder_alone(path: Path, folder: Path) -> int:
        for batch in images(path).split(8):
            codec.encode(batch)
            codec.encode(batch.flip(-1))
        return len(images(path))

    return {"ours": pipeline, "autoencoder alone": autoencoder_alone}


def against(tree: Path, path: Path, copies: int, resolutions: list[int], rounds: int) -> None:
    import h5py
    import numpy as np

    from tests.bench.against import HERE, Seconds, alternate, discli

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(path) as few, zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_STORED) as many:
            names = [name for name in few.namelist() if not name.endswith("/")]
            for copy in range(copies):
                for name in names:
                    place = Path(name)
                    many.writestr(str(place.with_name(f"{copy}-{place.name}")), few.read(name))
        print(f"{len(names) * copies:,} images")
        for resolution in resolutions:
            options = ["--res", resolution, "--codec", "rgb", "--workers", WORKERS]

            def encode(which: Path, out: str, *more: str, options: list[object] = options) -> Seconds:
                (folder / out).unlink(missing_ok=True)
                return discli(which, ["encode", "images.zip", *options, "--out", out, *more], folder)[0]

            print(f"{resolution} px")
            jobs = {
                "there": lambda encode=encode: encode(tree, "there.h5"),
                "here": lambda encode=encode: encode(HERE, "here.h5"),
                "here, --fast-decode": lambda encode=encode: encode(HERE, "fast.h5", "--fast-decode"),
            }
            alternate(jobs, rounds, "there")
            rows = {}
            for out in ("there", "here", "fast"):
                with h5py.File(folder / f"{out}.h5") as file:
                    rows[out] = file["samples"][: len(names)].astype(np.int16)
            apart = np.abs(rows["fast"] - rows["here"])
            same = "the same pixels" if np.array_equal(rows["here"], rows["there"]) else "OTHER PIXELS"
            print(f"{same}; --fast-decode: {apart.mean():.2f} levels off on average, {apart.max()} at most")


def compare(jobs: dict[str, Callable[[Path, Path], int]], path: Path, rounds: int) -> None:
    """Turn about, and the median of each round's ratios: other work on the machine hits neighbours alike."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            rates[name].append(measure(job, path))
            print(f"  {name}: {rates[name][-1][0]:,.1f} images/s", flush=True)
    for which, unit in enumerate(("images/s", "images per second of processor time")):
        for name, each in rates.items():
            print(f"{name:20} {statistics.median(pair[which] for pair in each):9,.1f} {unit}")
        for name in [name for name in jobs if name != "ours"]:
            ratios = [one[which] / other[which] for one, other in zip(rates["ours"], rates[name], strict=True)]
            print(
                f"ours / {name:13} {statistics.median(ratios):9.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
            )


def main() -> None:
    import torch
    import torchvision  # noqa: F401 - all are loaded before the clock starts

    import discli.data.encode  # noqa: F401
    from discli.data.decoding import usable_cores
    from discli.runtime.console import stderr

    parser = argparse.ArgumentParser()
    parser.add_argument("zip", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vae")
    parser.add_argument("--against", type=Path, metavar="TREE")
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--res", type=int, nargs="+", default=[64, 128, 256])
    given = parser.parse_args()
    stderr.quiet = True
    print(
        f"Python {platform.python_version()}, {usable_cores()} cores (load {os.getloadavg()[0]:.1f} before),"
        f" torch {torch.__version__}, {given.zip.name}"
    )
    if given.against:
        against(given.against, given.zip, given.copies, given.res, given.rounds)
        return
    if given.vae:
        compare(through_autoencoder(given.vae), given.zip, given.rounds)
        return
    compare({"theirs": theirs, "ours": ours, "decoding alone": decoding_alone}, given.zip, given.rounds)
    mapped, fancy = random_reads(given.zip)
    print(f"random reads    {mapped:9,.0f} samples/s, h5py {fancy:,.0f}: {mapped / fancy:.0f} times")


if __name__ == "__main__":
    main()
