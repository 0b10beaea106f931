"""What a run writes down on the way: its logs, and what it says of them on stderr."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor

from discli.recipe import Recipe
from discli.runs.logs import Logs
from discli.runs.run import Run
from discli.runs.sessions import record_session
from discli.runtime.console import stderr
from discli.training.clock import Clock
from discli.training.engine import Engine
from discli.training.state import TrainingState


class Record:
    """The main process's; on the others, which have no ``run``, nothing is written or said."""

    logs: Logs  # once it is open

    def __init__(self, recipe: Recipe, run: Run | None, engine: Engine, state: TrainingState) -> None:
        self._recipe, self._run, self._engine, self._state = recipe, run, engine, state
        self.last_note = ""  # for the end of a line of progress

    def open(self, stack: ExitStack, run: Run, scan: str) -> None:
        """Before the first step of a session, on the main process; ``scan`` is the backend's name."""
        engine, state = self._engine, self._state
        record_session(
            run.folder,
            state.step,
            engine.device,
            processes=engine.world_size,
            precision=engine.precision,
            scan=scan,
        )
        for key, (old, new) in sorted(run.ends.items()):
            stderr.print(f"train.steps = {self._recipe.train.steps:,} now: {key} ends after step {new:,}, not {old:,}.")
        self.logs = Logs(run.folder, state.step, state.rollbacks)
        stack.callback(self.logs.close)
        if run.changed:
            changes = ", ".join(f"{key} = {new!r} instead of {old!r}" for key, (old, new) in run.changed.items())
            stderr.print(f"Resuming with {changes}: the run had ended in steps that were not finite.", style="yellow")
            self.event("settings changed", state.step, settings=run.changed)

    def start_tracker(self, run: Run) -> None:
        about = {"recipe": self._recipe.model_dump_json()}
        self._engine.start_tracker(self._recipe.name, run.id, self._state.step, about)

    def event(self, event: str, step: int, **details: Any) -> None:
        """One line of events.jsonl."""
        if self._run:
            self.logs.events.write({"step": step, "event": event, "rollbacks": self._state.rollbacks} | details)

    def skipped(self, grad_norm: float, indices: list[int]) -> None:
        """The step to do next, with what it had seen: samples of the data file."""
        step = self._state.step + 1
        self.event("skipped", step, grad_norm=str(grad_norm), indices=indices)
        if self._run:
            what = f"loss or gradient not finite (gradient norm {grad_norm})"
            stderr.print(f"step {step}: {what}; skipped. Its samples: {self.logs.events.path.name}", style="yellow")

    def rolled_back(self) -> None:
        """To the step that the state has now."""
        if self._run:
            step, limit = self._state.step, self._recipe.train.skip_limit
            self.logs.roll_back(step)
            stderr.print(f"{limit} bad steps in a row: back to step {step}, with other data.", style="yellow")

    def measured(self, total: Tensor, clock: Clock, seconds_waited: float) -> None:
        """One line of metrics.jsonl, the same whenever and however often it is computed; timing goes elsewhere.

        ``total``: the log window's sums over all processes.
        """
        if not self._run or not total[0]:
            return
        spec, step = self._recipe.train, self._state.step
        means = self._state.window.means(total, has_vb=self._recipe.diffusion.learn_sigma)
        lr = spec.lr_schedule.at(spec.lr, step - 1, spec.steps)
        self.logs.metrics.write({"step": step, "images": step * spec.batch_size, **means, "lr": lr})
        speed = clock.lap(step, spec.batch_size, seconds_waited, self._engine.device)
        self.logs.speed.write({"step": step, **speed})
        self._engine.track(means | {"lr": lr} | speed, step)
        self.last_note = f"loss {means['loss']:.4f} at step {step:,}"

    def sync(self) -> None:
        """Before a checkpoint that counts on the logs."""
        if self._run:
            self.logs.sync()
