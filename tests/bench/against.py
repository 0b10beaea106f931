"""The command line of this tree and of another one, turn about, in processes of their own."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]

Seconds = tuple[float, float]  # of the clock, of the processors


def discli(tree: Path, arguments: Sequence[object], folder: Path) -> tuple[Seconds, str]:
    """How long ``discli ARGUMENTS`` of that tree took in ``folder``, start included, and what it printed."""
    started, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "discli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(tree.resolve())},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - started, processor_seconds() - before
    if done.returncode:
        sys.exit(f"{tree}: {done.stderr}")
    return took, done.stdout


def alternate(jobs: Mapping[str, Callable[[], Seconds]], rounds: int, first: str) -> None:
    """Prints medians, and the medians of each round's ratios to the ``first`` job. A warm-up round does not count."""
    for job in jobs.values():  # what is compiled, is compiled once
        job()
    taken: dict[str, list[Seconds]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            taken[name].append(job())
    for name, each in taken.items():
        clock, busy = (statistics.median(seconds[which] for seconds in each) for which in (0, 1))
        line = f"{name:28} {clock:7.2f} s, {busy:7.2f} s of processor"
        if name != first:
            ratios = [
                statistics.median(a[which] / b[which] for a, b in zip(taken[first], each, strict=True))
                for which in (0, 1)
            ]
            line += f": {ratios[0]:.2f} and {ratios[1]:.2f} times as fast"
        print(line, flush=True)


def processor_seconds() -> float:
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
