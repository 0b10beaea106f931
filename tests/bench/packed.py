"""``python -m tests.bench.packed [--side 32]``: packed samples that grow, and the contact sheet of a large set.

For ``--npz`` and ``--format zip``, without a network, random images of ``--side`` pixels, ``--new`` of them
(5,000) written as ``discli sample`` writes them, 64 at a time, and packed:

- *alone*: into an empty folder;
- *added*: to ``--old`` (20,000) that are packed already; this should take about as long;
- *sheet*: 100 images spread over all, as a contact sheet of balanced classes reads them.

Medians of ``--rounds``, alone and added turn about.
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from discli.sampling.writers import open_writer

BATCH = 64


def fill(form: str, folder: Path, first: int, n: int, side: int) -> float:
    """Images ``first`` to n - 1, and the archive of all n; how many seconds that took."""
    started = time.perf_counter()
    output = open_writer(form, folder)
    generator = torch.Generator().manual_seed(first)
    for start in range(first, n, BATCH):
        indices = range(start, min(n, start + BATCH))
        output.write(
            indices, torch.randint(0, 256, (len(indices), 3, side, side), dtype=torch.uint8, generator=generator)
        )
    output.finish(n, None)
    return time.perf_counter() - started


def show(form: str, folder: Path, n: int) -> float:
    """Seconds to read ten rows of ten images."""
    started = time.perf_counter()
    output = open_writer(form, folder)
    for row in range(10):
        output.read(range(row, n, n // 10)[:10])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=5_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    n = given.old + given.new
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {given.side} px")
    with tempfile.TemporaryDirectory() as place:
        for form in ("npz", "zip"):
            full, alone, added = (Path(place, f"{form}-{name}") for name in ("full", "alone", "added"))
            full.mkdir()
            fill(form, full, 0, given.old, given.side)
            times: dict[str, list[float]] = {"alone": [], "added": [], "sheet": []}
            for _ in range(given.rounds):
                alone.mkdir()
                times["alone"].append(fill(form, alone, 0, given.new, given.side))
                shutil.copytree(full, added)
                times["added"].append(fill(form, added, given.old, n, given.side))
                times["sheet"].append(show(form, added, n))
                shutil.rmtree(alone)
                shutil.rmtree(added)
            alone_s, added_s, sheet_s = (statistics.median(times[name]) for name in ("alone", "added", "sheet"))
            print(
                f"{form}: {given.new:,} alone {alone_s:.2f} s, added to {given.old:,} {added_s:.2f} s"
                f" ({added_s / alone_s:.2f} times), sheet of 100 {sheet_s * 1000:.0f} ms"
            )


if __name__ == "__main__":
    main()
