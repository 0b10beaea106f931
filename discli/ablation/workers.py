"""Trials as processes of their own, some at a time, with one progress bar over all of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

import torch

from discli.ablation.plan import Planned
from discli.ablation.trial import FAILURE, LOG, RESULT, is_held, run_in
from discli.runs.logs import parse_log
from discli.runtime.console import format_seconds, progress, stderr
from discli.runtime.errors import last_error
from discli.runtime.files import write_text
from discli.runtime.launch import end_with_parent
from discli.runtime.processes import local_rank, without_others
from discli.runtime.signals import EXIT_INTERRUPTED

_SECONDS_BETWEEN_LOOKS = 0.5
_UNITS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
_ENOUGH_FOR_A_LINE = 1 << 14  # bytes


@dataclass
class _Worker:
    planned: Planned
    slot: int
    process: subprocess.Popen[bytes]
    log: TextIO
    log_starts: int  # bytes of earlier tries in front
    started: float


def run_trials(todo: Sequence[Planned], command: Sequence[str], jobs: int) -> Generator[str, None, None]:
    """Runs ``discli ablate <command> --trial NAME`` for each, ``jobs`` at once; a line for every one that ends.

    A trial that fails leaves why in its folder, and the others continue. One that another process is at is
    left to it, and looked at again when that has ended. Whatever ends this early (Ctrl-C, SIGTERM and
    SIGUSR1, which raise AskedToStop, an error), the trials are asked to stop and write a checkpoint first.
    """
    if not todo:
        return
    waiting = list(todo)
    running: list[_Worker] = []
    for planned in todo:
        (planned.folder / FAILURE).unlink(missing_ok=True)
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with _Bar(todo) as bar:
            while waiting or running:
                for planned in waiting[:]:
                    if len(running) == jobs:
                        break
                    if is_held(planned.folder):
                        continue
                    waiting.remove(planned)
                    if (planned.folder / RESULT).exists():
                        bar.ended(planned)
                        yield f"{planned.trial.name}: done by another process"
                        continue
                    slot = next(slot for slot in range(jobs) if all(worker.slot != slot for worker in running))
                    running.append(_start(planned, command, slot, jobs))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                for worker in running:
                    bar.look(worker.planned)
                if not running and waiting:
                    bar.note(f"waiting for {waiting[0].trial.name}, which another process is at")
                for worker in [worker for worker in running if worker.process.poll() is not None]:
                    running.remove(worker)
                    if _was_held(worker):
                        worker.log.close()
                        waiting.append(worker.planned)
                        continue
                    bar.ended(worker.planned)
                    yield _ended(worker)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if running:
            stderr.print(
                f"Asking {len(running)} trials to write a checkpoint and stop. Run the same command to resume."
            )
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.process.wait()
            worker.log.close()


def _start(planned: Planned, command: Sequence[str], slot: int, jobs: int) -> _Worker:
    planned.folder.mkdir(parents=True, exist_ok=True)
    log = (planned.folder / LOG).open("a", encoding="utf-8")
    starts = (planned.folder / LOG).stat().st_size
    process = subprocess.Popen(
        [sys.executable, "-m", "discli", "ablate", *command, "--trial", planned.trial.name],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_environment(slot, jobs),
        # Ctrl-C reaches the terminal's whole group; the trials are asked to stop by us, once.
        start_new_session=True,
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )
    return _Worker(planned, slot, process, log, starts, time.monotonic())


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """One GPU a worker, in turn, or its share of the cores."""
    environment = without_others(os.environ)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    if count:
        visible = devices if len(devices) == count else [str(index) for index in range(count)]
        environment["CUDA_VISIBLE_DEVICES"] = visible[(local_rank() * jobs + slot) % count]
    elif jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // jobs)))
    return environment


class AskedToStop(BaseException):
    """By SIGTERM or SIGUSR1, whose name it carries. As KeyboardInterrupt, it is not an error to be handled."""


def _stop(number: int, frame: object) -> None:
    raise AskedToStop(_signal_name(number))


class _Bar:
    """Progress over all trials, in FLOPs; a trial's samples count with its steps: most of them are scores' samples.

    A trial that goes back to its checkpoint is not counted twice.
    """

    def __init__(self, todo: Sequence[Planned]) -> None:
        flops = sum(planned.flops for planned in todo)
        self._unit, name = next((unit for unit in _UNITS if flops > 1000 * unit[0]), _UNITS[-1])
        self._counted = {planned.trial.name: self._units(planned, _step_of(planned)) for planned in todo}
        total = sum(self._units(planned, planned.recipe.train.steps) for planned in todo)
        self._progress = progress("ablate", total, name, sum(self._counted.values()))

    def __enter__(self) -> Self:
        self._ticker = self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def note(self, text: str) -> None:
        self._ticker.advance(0, text)

    def look(self, planned: Planned) -> None:
        """A trial that is running."""
        step, steps = _step_of(planned), planned.recipe.train.steps
        state = f"step {step:,} of {steps:,}" if step < steps else "scoring"
        self._count(planned, step, f"{planned.trial.name}: {state}")

    def ended(self, planned: Planned) -> None:
        """A trial that will not run on here, finished or not."""
        self._count(planned, planned.recipe.train.steps, "")

    def _count(self, planned: Planned, step: int, note: str) -> None:
        name = planned.trial.name
        now = max(self._counted[name], self._units(planned, step))
        self._ticker.advance(now - self._counted[name], note)
        self._counted[name] = now

    def _units(self, planned: Planned, step: int) -> int:
        return round(planned.flops / self._unit * min(step / planned.recipe.train.steps, 1.0))


def _step_of(planned: Planned) -> int:
    """The last step in its log, of which only the end is read."""
    path = run_in(planned.folder).log("metrics")
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _ENOUGH_FOR_A_LINE))
        lines = parse_log(file.read().decode("utf-8", errors="replace"))
    return int(lines[-1]["step"]) if lines else 0


def _was_held(worker: _Worker) -> bool:
    """Whether another process was at the trial first: nothing that failed."""
    folder = worker.planned.folder
    return worker.process.returncode == EXIT_INTERRUPTED and (is_held(folder) or (folder / RESULT).exists())


def _ended(worker: _Worker) -> str:
    """One line on how it ended; a failure's last words are kept for the report. Being asked to stop is none."""
    worker.log.close()
    name, status = worker.planned.trial.name, worker.process.returncode
    took = format_seconds(time.monotonic() - worker.started)
    if status == 0:
        return f"{name}: done ({took})"
    if status == EXIT_INTERRUPTED:
        return f"{name}: asked to stop after {took}; run the same command to resume"
    how = f"status {status}"
    if status < 0:
        how = f"killed by {_signal_name(-status)}" + (" (out of memory?)" if -status == signal.SIGKILL else "")
    why = f"{how}: {_last_words(worker.planned.folder / LOG, worker.log_starts)}"
    write_text(worker.planned.folder / FAILURE, why + "\n")
    return f"{name}: failed after {took}: {why}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


def _last_words(log: Path, start: int) -> str:
    """Of this try: the error that ``discli`` printed, both of its lines, or else the last line of all."""
    what, how = last_error(log.read_bytes()[start:].decode("utf-8", errors="replace"))
    return f"{what} {how}".strip() or "nothing was said"
