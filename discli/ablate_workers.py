"""Cells as processes of their own, some at a time, with one progress bar over all of them."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from discli.ablate_cell import LOG
from discli.ablate_plan import Planned
from discli.console import Ticker, format_seconds, progress
from discli.files import write_text
from discli.training.interrupts import EXIT_INTERRUPTED
from discli.training.logs import read_log

_FAILURE = "failed.txt"
_SECONDS_BETWEEN_LOOKS = 0.5
_PR_SET_PDEATHSIG = 1

# What makes a process believe that it is one of many; a cell is trained by one alone.
_OF_A_TEAM = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "SLURM_PROCID", "SLURM_NTASKS")


@dataclass
class _Worker:
    planned: Planned
    slot: int
    process: subprocess.Popen[bytes]
    log: TextIO
    started: float
    counted: float  # FLOPs of this cell that the progress bar has seen


def run_cells(todo: Sequence[Planned], command: Sequence[str], jobs: int) -> Iterator[str]:
    """Runs ``discli ablate <command> --cell NAME`` for each, ``jobs`` at once; a line for every one that ends.

    A cell that fails leaves why in its folder, and the others go on. Interrupted, all are asked to
    stop, write a checkpoint, and KeyboardInterrupt goes on its way.
    """
    waiting = list(reversed(todo))
    running: list[_Worker] = []
    total, done = sum(p.flops for p in todo), sum(_flops_done(p) for p in todo)
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        with progress("ablate", _gflops(total), "GFLOP", _gflops(done)) as ticker:
            while waiting or running:
                while waiting and len(running) < jobs:
                    slot = next(slot for slot in range(jobs) if all(worker.slot != slot for worker in running))
                    running.append(_start(waiting.pop(), command, slot, jobs))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                for worker in running:
                    _advance(worker, ticker)
                for worker in [worker for worker in running if worker.process.poll() is not None]:
                    running.remove(worker)
                    _count(worker, worker.planned.flops, ticker, "")
                    yield _ended(worker)
    finally:
        signal.signal(signal.SIGTERM, before)
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.process.wait()
            worker.log.close()


def failure_of(folder: Path) -> str | None:
    """Why the cell in ``folder`` failed when it was last tried."""
    path = folder / _FAILURE
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None


def _start(planned: Planned, command: Sequence[str], slot: int, jobs: int) -> _Worker:
    planned.folder.mkdir(parents=True, exist_ok=True)
    (planned.folder / _FAILURE).unlink(missing_ok=True)
    log = (planned.folder / LOG).open("a", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "discli", "ablate", *command, "--cell", planned.cell.name],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_environment(slot, jobs),
        # Ctrl-C reaches the terminal's whole group; the cells are asked to stop by us, once.
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    return _Worker(planned, slot, process, log, time.monotonic(), _flops_done(planned))


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """One GPU a worker, in turn, or its share of the cores."""
    environment = {key: value for key, value in os.environ.items() if key not in _OF_A_TEAM}
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    if count:
        visible = devices if len(devices) == count else [str(index) for index in range(count)]
        environment["CUDA_VISIBLE_DEVICES"] = visible[(local * jobs + slot) % count]
    elif jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // jobs)))
    return environment


def _end_with_parent() -> None:
    """Killed with SIGKILL, this process cannot tell its cells; the kernel does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _advance(worker: _Worker, ticker: Ticker) -> None:
    step, steps = _step_of(worker.planned), worker.planned.recipe.train.steps
    state = f"step {step:,} of {steps:,}" if step < steps else "scoring"
    _count(worker, _flops_done(worker.planned), ticker, f"{worker.planned.cell.name}: {state}")


def _count(worker: _Worker, flops: float, ticker: Ticker, note: str) -> None:
    """``flops`` of this cell are done; a cell that goes back to its checkpoint is not counted twice."""
    ticker.advance(_gflops(max(flops, worker.counted)) - _gflops(worker.counted), note)
    worker.counted = max(flops, worker.counted)


def _flops_done(planned: Planned) -> float:
    """Of training, and as much of its samples: scores along the way are most of them."""
    return planned.flops * min(_step_of(planned) / planned.recipe.train.steps, 1.0)


def _gflops(flops: float) -> int:
    return round(flops / 1e9)


def _step_of(planned: Planned) -> int:
    lines = read_log(planned.folder / "run" / "metrics.jsonl")
    return int(lines[-1]["step"]) if lines else 0


def _ended(worker: _Worker) -> str:
    """One line on how it ended; a failure's last words are kept for the report."""
    worker.log.close()
    name, status = worker.planned.cell.name, worker.process.returncode
    took = format_seconds(time.monotonic() - worker.started)
    if status == 0:
        return f"{name}: done ({took})"
    if status == EXIT_INTERRUPTED:
        why = "asked to stop; it goes on with the same command"
    else:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        why = f"{how}: {_last_words(worker.planned.folder / LOG)}"
    write_text(worker.planned.folder / _FAILURE, why + "\n")
    return f"{name}: failed after {took}: {why}"


def _last_words(log: Path) -> str:
    """The error that ``discli`` printed, both of its lines, or else the last line of all."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing was said"]
    errors = [number for number, line in enumerate(lines) if line.startswith("discli: ")]
    said = lines[errors[-1] :] if errors else lines[-1:]
    return " ".join(line.strip().removeprefix("discli: ") for line in said)
