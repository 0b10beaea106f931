"""``discli train``: recipe -> data -> model -> loss -> optimizer -> checkpoint, from top to bottom.

A run that is killed at any moment and started again with the same command ends with the same bits.
Three things make it so: every random number is addressed by (seed, stream, step, place in the
batch) instead of drawn in turn; which samples a step sees is a function of the step; and weights,
averages, optimizer and the open log window are written together, atomically.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.cost.disk import describe_needs
from discli.cost.flops import forward_flops
from discli.cost.peak import peak_flops
from discli.data.autoencoders import to_model_space
from discli.data.device import OnDevice
from discli.data.store import Store, open_store
from discli.diffusion import DiffusionLoss
from discli.model import DiS
from discli.model.mixers import choose_scan
from discli.recipe import Recipe, check_fits, load_recipe
from discli.recipe.config_warnings import config_warnings
from discli.runs.checkpoint import newest_checkpoint
from discli.runs.logs import Logs
from discli.runs.run import Run
from discli.runs.sessions import record_session
from discli.runtime.console import progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.rng import RngStream, normal, uniform
from discli.training.batches import Batch, BatchPlan, Feed, share_of_batch
from discli.training.callbacks import Watch
from discli.training.clock import Clock
from discli.training.ema import build_ema
from discli.training.engine import Engine
from discli.training.interrupts import EXIT_INTERRUPTED, Interrupts
from discli.training.optimizer import build_optimizer, lr_at
from discli.training.state import TrainingState


def train(
    recipe: Recipe | str | Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Train, or go on with, the run that ``recipe`` (or the file, or shipped recipe, of that name) describes.

    Returns the run's folder: ``out``, by default ``runs/<recipe name>``. ``data`` is a file of
    ``discli encode`` and wins over the recipe's ``data.file``. Raises DiscliError before the first step where
    recipe and data do not fit; exits with status 75 after a checkpoint when asked to stop.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, list(overrides))
    folder = out or Path("runs") / recipe.name
    file = data or recipe.data.file
    if file is None:
        raise DiscliError(f"{recipe.name}: no data file.", "Give --data FILE.h5 (discli encode writes one).")
    store = open_store(file, cache="ram" if recipe.data.cache == "ram" else "none")
    check_fits(recipe, store.contract, str(file))

    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())  # being asked to stop while starting is asking, too
        engine = Engine(recipe.train, tracker_folder=folder)
        # Only the main process writes; the others learn of a refusal by its absence.
        run = stack.enter_context(Run(folder, recipe, store.contract, file)) if engine.is_main else None
        engine.barrier()
        trainer = Trainer(recipe, store, engine, folder, run)
        if run:
            trainer.open_logs(stack, run, file)
        trainer.loop(interrupts)
        engine.close()
    return folder


class Trainer:
    """Everything that changes from step to step, and the loop that changes it."""

    def __init__(self, recipe: Recipe, store: Store, engine: Engine, folder: Path, run: Run | None) -> None:
        self.recipe, self.store, self.engine, self.folder, self.run = recipe, store, engine, folder, run
        spec = recipe.train
        self.share = share_of_batch(spec, engine.world_size)
        self.source = OnDevice(store, engine.device) if recipe.data.cache == "device" else store

        self.scan = choose_scan(recipe.model, engine.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.network = DiS.from_recipe(recipe)
        self.network.checkpoint_blocks = spec.activation_checkpointing
        self.num_parameters = sum(p.numel() for p in self.network.parameters())
        self.drop_path_rates = self.network.drop_path_rates().to(engine.device)

        self.model = engine.wrap(self.network, self.network.blocks)
        self.forward = torch.compile(self.model) if spec.compile else self.model
        self.optimizer = build_optimizer(self.network, spec)
        self.ema = build_ema(spec.ema, self.network)
        self.loss = DiffusionLoss(recipe.diffusion)
        self.state = TrainingState(folder, self.network, self.optimizer, self.ema, engine)
        self.state.resume()
        self.metadata = run.checkpoint_metadata if run else None
        self.watch = Watch(recipe, store.contract, folder, engine)

        peak = peak_flops(engine.device, engine.precision, spec.tf32, spec.peak_tflops)
        # Forward once, backward twice as much.
        self.clock = Clock(
            self.state.step, spec.steps, 3 * sum(forward_flops(recipe).values()), peak and peak * engine.world_size
        )
        self.last_note = ""

    @property
    def seed(self) -> int:
        """Another stream of data and noise after a roll-back."""
        return self.recipe.train.seed + (self.state.rollbacks << 32)

    def loop(self, interrupts: Interrupts) -> None:
        spec, engine, state = self.recipe.train, self.engine, self.state
        self.watch.look(self.ema.averages["ema"], state.step, only_missing=True)
        with ExitStack() as stack:
            ticker = None
            if engine.is_main:
                done, total = (steps * spec.batch_size for steps in (state.step, spec.steps))
                ticker = stack.enter_context(progress(self.recipe.name, total, "images", done))
            feed = stack.enter_context(ExitStack())
            batches = feed.enter_context(self._feed())
            self.clock.restart(state.step)
            rehearse = engine.needs_rehearsal

            while state.step < spec.steps:
                batch = next(batches)
                if rehearse:
                    self._forward_backward(batch)
                    self._forget()
                    self.clock.restart(state.step)
                    rehearse = False
                grad_norm = self._forward_backward(batch)

                # One agreement a step: every rank skips, stops or goes on together.
                broken = not (math.isfinite(grad_norm) and state.window.is_finite())
                broken, asked_to_stop = engine.any(broken, interrupts.received is not None)
                if not broken:
                    self._update(grad_norm)
                else:
                    self._skip(batch, grad_norm)
                    if state.skipped_in_a_row >= spec.skip_limit:
                        self._roll_back()
                        feed.close()
                        batches = feed.enter_context(self._feed())
                        continue
                state.step += 1

                done = state.step == spec.steps
                if state.step % spec.log_every == 0 or done:
                    self._log(batches.seconds_waited)
                if ticker:
                    self.clock.estimate(state.step, engine.device)
                    ticker.advance(spec.batch_size, self.last_note)
                state.snapshot(self.metadata)
                if state.step % spec.checkpoint_every == 0 or done or asked_to_stop:
                    self._checkpoint()
                if asked_to_stop and not done:
                    self._stop(interrupts)
                with self.clock.paused():
                    self.watch.look(self.ema.averages["ema"], state.step)

    # One step

    def _forward_backward(self, batch: Batch) -> float:
        """Gradients of the mean loss over the global batch, clipped; returns their norm before clipping."""
        spec, engine = self.recipe.train, self.engine
        self._window_before = self.state.window.sums.clone()
        micro = spec.micro_batch or self.share
        starts = range(0, self.share, micro)
        for start in starts:
            part = slice(start, start + micro)
            with engine.accumulate(self.model, last=start == starts[-1]):
                (self._loss(batch, part).sum() / self.share).backward()
        return engine.clip(self.network, spec.grad_clip)

    def _loss(self, batch: Batch, part: slice) -> Tensor:
        """(b,) losses of some of the batch's samples, in which nothing is drawn but by address."""
        recipe, device = self.recipe, self.engine.device
        slots = batch.slots[part].to(device, non_blocking=True)
        shape = (recipe.in_channels, recipe.input_size, recipe.input_size)

        stored = batch.stored[part].to(device, non_blocking=True)
        is_latent = self.store.contract.codec.name == "vae"
        eps = normal(self.seed, RngStream.LATENT, batch.step, slots, shape) if is_latent else None
        x0 = to_model_space(self.store.contract.codec, stored, eps)

        fraction = uniform(self.seed, RngStream.TIMESTEP, batch.step, slots)
        t = self.loss.timesteps(fraction)
        noise = normal(self.seed, RngStream.NOISE, batch.step, slots, shape)
        x_t, t_model = self.loss.noisy(x0, t, noise)

        y = self._labels(batch, part, slots)
        keep = None
        if recipe.model.drop_path_rate > 0:
            draws = uniform(self.seed, RngStream.DROP_PATH, batch.step, slots, self.drop_path_rates.shape)
            rates = self.drop_path_rates
            keep = ((draws >= rates) / (1 - rates)).T.contiguous()

        with self.engine.autocast():
            out = self.forward(x_t, t_model, y, keep).float()
        losses = self.loss(out, x0, x_t, t, noise)
        vb = None if losses.vb is None else losses.vb.detach()
        self.state.window.add_samples(losses.loss.detach(), losses.mse.detach(), vb, t / self._last_timestep)
        return losses.loss

    @property
    def _last_timestep(self) -> float:
        return 1.0 if self.recipe.diffusion.objective.process == "flow" else float(self.recipe.diffusion.num_timesteps)

    def _labels(self, batch: Batch, part: slice, slots: Tensor) -> Tensor | None:
        """Classes, some replaced by the null class so that guidance has something to guide from."""
        num_classes = self.recipe.model.num_classes
        if num_classes == 0:
            return None
        assert batch.labels is not None
        labels = batch.labels[part].to(slots.device, non_blocking=True)
        dropped = uniform(self.seed, RngStream.CLASS_DROPOUT, batch.step, slots) < self.recipe.train.class_dropout_prob
        return torch.where(dropped, num_classes, labels)

    def _update(self, grad_norm: float) -> None:
        spec = self.recipe.train
        lr = lr_at(spec.lr_schedule, spec.lr, self.state.step, spec.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.network, self.state.step + 1)
        self.state.window.add_step(grad_norm)
        self.state.skipped_in_a_row = 0

    # When numbers go wrong

    def _forget(self) -> None:
        """Drop what the last pass forward and backward has left: gradients, and its part in the log's averages."""
        self.optimizer.zero_grad(set_to_none=True)
        self.state.window.sums.copy_(self._window_before)

    def _skip(self, batch: Batch, grad_norm: float) -> None:
        """Leave weights, averages and optimizer as they are; write down what the step had seen."""
        self._forget()
        self.state.skipped_in_a_row += 1
        plan = BatchPlan(len(self.store), self.recipe.train.batch_size, self.seed)
        self._happened("skipped", grad_norm=str(grad_norm), indices=plan.indices(batch.step).tolist())
        if self.run:
            what = f"loss or gradient not finite (gradient norm {grad_norm})"
            stderr.print(f"step {self.state.step + 1}: {what}; skipped. Its samples: events.jsonl", style="yellow")

    def _roll_back(self) -> None:
        """Back to the last checkpoint with other data, once; a second time means that training is broken."""
        state, limit = self.state, self.recipe.train.skip_limit
        if state.rollbacks or newest_checkpoint(self.folder) is None:
            why = "after rolling back once already" if state.rollbacks else "with no checkpoint to go back to"
            raise DiscliError(
                f"{limit} steps in a row were not finite at step {state.step + 1}, {why}.",
                f"See {self.folder / 'events.jsonl'}; try a lower train.lr, a lower train.grad_clip or fp32.",
                status=1,
            )
        self._happened("rolled back")
        rollbacks = state.rollbacks + 1
        state.resume()
        state.rollbacks, state.skipped_in_a_row = rollbacks, 0
        self.clock.restart(state.step)
        if self.run:
            self.logs.roll_back(state.step)
            stderr.print(f"{limit} bad steps in a row: back to step {state.step}, with other data.", style="yellow")

    def _happened(self, event: str, **details: Any) -> None:
        if self.run:
            now = {"step": self.state.step + 1, "event": event, "rollbacks": self.state.rollbacks}
            self.logs.events.write(now | details)

    # What is written down

    def open_logs(self, stack: ExitStack, run: Run, data_file: Path) -> None:
        """On the main process: say what is about to happen, open the logs, and make ready to score samples."""
        recipe, spec = self.recipe, self.recipe.train
        at = f"going on at step {self.state.step:,} of" if self.state.step else "training"
        at = at if self.state.step < spec.steps else "finished:"
        stderr.print(
            f"{recipe.name}: {self.num_parameters:,} parameters, {at} {spec.steps:,} steps of {spec.batch_size} "
            f"on {len(self.store):,} images; {self.engine.world_size} x {self.engine.device.type}, "
            f"{self.engine.precision}; scan: {self.scan.name} ({self.scan.reason})"
        )
        for doubt in config_warnings(spec) if self.state.step < spec.steps else ():
            stderr.print(doubt, style="yellow")
        shards = self.engine.world_size if self.engine.sharded else 1
        stderr.print(describe_needs(spec, self.num_parameters, len(self.ema.averages), shards, self.folder))
        record_session(
            self.folder,
            self.state.step,
            self.engine.device,
            processes=self.engine.world_size,
            precision=self.engine.precision,
            scan=self.scan.name,
        )
        self.logs = Logs(self.folder, self.state.step, self.state.rollbacks)
        stack.callback(self.logs.close)
        self.watch.open(data_file, self.logs.scores)
        self.engine.start_tracker(recipe.name, run.id, self.state.step, {"recipe": recipe.model_dump_json()})

    def _log(self, seconds_waited: float) -> None:
        """One line of metrics.jsonl, the same whenever and however often it is computed; timing goes elsewhere."""
        total = self.engine.sum(self.state.window.sums.clone())
        self.state.window.clear()
        if not self.run or not total[0]:
            return
        spec, step = self.recipe.train, self.state.step
        means = self.state.window.means(total, has_vb=self.recipe.diffusion.learn_sigma)
        lr = lr_at(spec.lr_schedule, spec.lr, step - 1, spec.steps)
        self.logs.metrics.write({"step": step, "images": step * spec.batch_size, **means, "lr": lr})
        speed = self.clock.lap(step, spec.batch_size, seconds_waited, self.engine.device)
        self.logs.speed.write({"step": step, **speed})
        self.engine.track(means | {"lr": lr} | speed, step)
        self.last_note = f"step {step:,}  loss {means['loss']:.4f}"

    def _checkpoint(self) -> None:
        if self.run:
            self.logs.sync()
        self.state.checkpoint(self.metadata, self.recipe.train)

    def _stop(self, interrupts: Interrupts) -> None:
        name = interrupts.received.name if interrupts.received else "a signal on another rank"
        if self.engine.is_main:
            stderr.print(f"{name}: checkpoint of step {self.state.step:,} written. Run the same command to go on.")
        self.engine.close()
        raise SystemExit(EXIT_INTERRUPTED)

    def _feed(self) -> Feed:
        engine, spec = self.engine, self.recipe.train
        plan = BatchPlan(len(self.store), spec.batch_size, self.seed, engine.rank, engine.world_size)
        pin = engine.device.type == "cuda" and self.source is self.store
        return Feed(self.source, plan, self.state.step, spec.steps, self.recipe.data.horizontal_flip, pin)
