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

import torch
from torch import Tensor

from discli.codecs import to_model_space
from discli.console import Ticker, format_bytes, progress, stderr
from discli.data.store import Store, open_store
from discli.diffusion import DiffusionLoss
from discli.errors import DiscliError
from discli.model import DiS
from discli.preview import draw_preview
from discli.recipe import Recipe, check_fits, load_recipe
from discli.scan import choose_backend
from discli.streams import Stream, normal, uniform
from discli.training.batches import Batch, BatchPlan, Feed
from discli.training.checkpoint import (
    newest_checkpoint,
    prune,
    read_state,
    read_tensors,
    write_checkpoint,
    write_snapshot,
)
from discli.training.clock import Clock
from discli.training.ema import PowerEma, build_ema
from discli.training.engine import Engine, fill, whole
from discli.training.interrupts import EXIT_INTERRUPTED, Interrupts
from discli.training.optimizer import build_optimizer, lr_at, optimizer_tensors, restore_optimizer
from discli.training.run import Log, Run
from discli.training.window import Window


def train(
    recipe_name: str | Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Train, or go on with, the run that ``recipe_name`` describes; returns its folder.

    ``data`` is a file of ``discli encode`` and wins over the recipe's ``data.file``; ``out``
    defaults to ``runs/<recipe name>``. Raises DiscliError before the first step where recipe and
    data do not fit; exits with status 75 after a checkpoint when asked to stop.
    """
    recipe = load_recipe(recipe_name, list(overrides))
    folder = out or Path("runs") / recipe.name
    file = data or recipe.data.file
    if file is None:
        raise DiscliError(f"{recipe.name}: no data file.", "Give --data FILE.h5 (discli encode writes one).")
    store = open_store(file, cache="ram" if recipe.data.cache == "ram" else "none")
    check_fits(recipe, store.contract, str(file))

    engine = Engine(recipe.train, tracker_folder=folder)
    with ExitStack() as stack:
        # Only the main process writes; the others learn of a refusal by its absence.
        run = stack.enter_context(Run(folder, recipe, store.contract, file)) if engine.is_main else None
        engine.barrier()
        trainer = Trainer(recipe, store, folder, engine, run)
        trainer.loop(stack.enter_context(Interrupts()))
    engine.close()
    return folder


class Trainer:
    """Everything that changes from step to step, and the loop that changes it."""

    def __init__(self, recipe: Recipe, store: Store, folder: Path, engine: Engine, run: Run | None) -> None:
        self.recipe, self.store, self.folder, self.engine, self.run = recipe, store, folder, engine, run
        spec = recipe.train
        self.share = _share_of_batch(recipe, engine.world_size)

        choice = choose_backend(recipe.model.scan, engine.device)
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            network = DiS.from_recipe(recipe)
        network.checkpoint_blocks = spec.activation_checkpointing
        self.num_parameters = sum(p.numel() for p in network.parameters())
        self.drop_path_rates = network.drop_path_rates().to(engine.device)

        self.network = network
        self.model = engine.wrap(network, network.blocks)
        self.forward = torch.compile(self.model) if spec.compile else self.model
        self.optimizer = build_optimizer(network, spec)
        self.ema = build_ema(spec.ema, self.network)
        self.loss = DiffusionLoss(recipe.diffusion)
        self.window = Window(engine.device)
        self.step = 0  # optimizer steps done; also the number of the step to do next
        self.rollbacks = 0
        self.skipped_in_a_row = 0
        self._resume()
        if engine.is_main:
            self._introduce(choice.name, choice.reason)

    @property
    def seed(self) -> int:
        """Another stream of data and noise after a roll-back."""
        return self.recipe.train.seed + (self.rollbacks << 32)

    def loop(self, interrupts: Interrupts) -> None:
        spec, engine = self.recipe.train, self.engine
        with ExitStack() as stack:
            self._open_logs(stack)
            ticker = None
            if engine.is_main:
                ticker = stack.enter_context(
                    progress(self.recipe.name, spec.steps * spec.batch_size, "images", self.step * spec.batch_size)
                )
            feed = stack.enter_context(ExitStack())
            batches = feed.enter_context(self._feed())
            if self.step == 0 and self._preview_is_due(done=False):
                self._preview()
            self.clock = Clock(self.step, spec.steps)

            while self.step < spec.steps:
                batch = next(batches)
                grad_norm = self._forward_backward(batch)

                # One agreement a step: every rank skips, stops or goes on together.
                broken, asked_to_stop = engine.any(not math.isfinite(grad_norm), interrupts.received is not None)
                if not broken:
                    self._update(grad_norm)
                else:
                    self._skip(batch, grad_norm)
                    if self.skipped_in_a_row >= spec.skip_limit:
                        self._roll_back()
                        feed.close()
                        batches = feed.enter_context(self._feed())
                        continue
                self.step += 1

                if engine.is_main:
                    self.clock.estimate(self.step)
                done = self.step == spec.steps
                if self.step % spec.log_every == 0 or done:
                    self._log(ticker, batches.seconds_waited)
                if ticker:
                    ticker.advance(spec.batch_size, self.last_note)
                if self.step % spec.checkpoint_every == 0 or done or asked_to_stop:
                    self._checkpoint()
                if isinstance(self.ema, PowerEma) and self.step % self.ema.snapshot_every == 0:
                    self._snapshot(self.ema)
                if self._preview_is_due(done):
                    self._preview()
                if asked_to_stop and not done:
                    self._stop(interrupts)

    # One step

    def _forward_backward(self, batch: Batch) -> float:
        """Gradients of the mean loss over the global batch, clipped; returns their norm before clipping."""
        spec, engine = self.recipe.train, self.engine
        self._window_before = self.window.sums.clone()
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
        slots = batch.slots[part].to(device)
        shape = (recipe.in_channels, recipe.input_size, recipe.input_size)

        stored = batch.stored[part].to(device, non_blocking=True)
        is_latent = self.store.contract.codec.name == "vae"
        eps = normal(self.seed, Stream.LATENT, batch.step, slots, shape) if is_latent else None
        x0 = to_model_space(self.store.contract.codec, stored, eps)

        fraction = uniform(self.seed, Stream.TIMESTEP, batch.step, slots)
        t = self.loss.timesteps(fraction)
        noise = normal(self.seed, Stream.NOISE, batch.step, slots, shape)
        x_t, t_model = self.loss.noisy(x0, t, noise)

        y = self._labels(batch, part, slots)
        keep = None
        if recipe.model.drop_path_rate > 0:
            draws = uniform(self.seed, Stream.DROP_PATH, batch.step, slots, self.drop_path_rates.shape)
            rates = self.drop_path_rates
            keep = ((draws >= rates) / (1 - rates)).T.contiguous()

        with self.engine.autocast():
            out = self.forward(x_t, t_model, y, keep).float()
        losses = self.loss(out, x0, x_t, t, noise)
        vb = None if losses.vb is None else losses.vb.detach()
        self.window.add_samples(losses.loss.detach(), losses.mse.detach(), vb, t / self._last_timestep)
        return losses.loss

    @property
    def _last_timestep(self) -> float:
        return 1.0 if self.recipe.diffusion.objective.name == "flow" else float(self.recipe.diffusion.num_timesteps)

    def _labels(self, batch: Batch, part: slice, slots: Tensor) -> Tensor | None:
        """Classes, some replaced by the null class so that guidance has something to guide from."""
        num_classes = self.recipe.model.num_classes
        if num_classes == 0:
            return None
        assert batch.labels is not None
        labels = batch.labels[part].to(slots.device)
        dropped = uniform(self.seed, Stream.CLASS_DROPOUT, batch.step, slots) < self.recipe.train.class_dropout_prob
        return torch.where(dropped, num_classes, labels)

    def _update(self, grad_norm: float) -> None:
        spec = self.recipe.train
        lr = lr_at(spec.lr_schedule, spec.lr, self.step, spec.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.network, self.step + 1)
        self.window.add_step(grad_norm)
        self.skipped_in_a_row = 0

    # When numbers go wrong

    def _skip(self, batch: Batch, grad_norm: float) -> None:
        """Leave weights, averages and optimizer as they are; write down what the step had seen."""
        self.optimizer.zero_grad(set_to_none=True)
        self.window.sums.copy_(self._window_before)
        self.skipped_in_a_row += 1
        if self.run:
            plan = BatchPlan(len(self.store), self.recipe.train.batch_size, self.seed)
            indices = plan.indices(batch.step).tolist()
            self.events.write(
                {"step": self.step + 1, "event": "skipped", "grad_norm": str(grad_norm), "indices": indices}
            )
            stderr.print(
                f"[yellow]step {self.step + 1}: gradient norm {grad_norm}; skipped. Its samples: events.jsonl[/yellow]"
            )

    def _roll_back(self) -> None:
        """Back to the last checkpoint with other data, once; a second time means that training is broken."""
        limit = self.recipe.train.skip_limit
        if self.rollbacks or newest_checkpoint(self.folder) is None:
            raise DiscliError(
                f"{limit} steps in a row were not finite at step {self.step + 1}"
                + (", after rolling back once already." if self.rollbacks else ", with no checkpoint to go back to."),
                f"See {self.folder / 'events.jsonl'}; try a lower train.lr, a lower train.grad_clip or fp32.",
                status=1,
            )
        failed_at, rollbacks = self.step + 1, self.rollbacks + 1
        self._resume()
        self.rollbacks, self.skipped_in_a_row = rollbacks, 0
        if self.run:
            for log in (self.metrics, self.speed):
                log.cut(self.step)
            self.events.write({"step": failed_at, "event": "rolled back", "to_step": self.step})
            stderr.print(f"[yellow]{limit} bad steps in a row: back to step {self.step}, with other data.[/yellow]")

    # What is written down

    def _open_logs(self, stack: ExitStack) -> None:
        self.last_note = ""
        if self.run:
            self.metrics = Log(self.folder / "metrics.jsonl", self.step)
            self.speed = Log(self.folder / "speed.jsonl", self.step)
            self.events = Log(self.folder / "events.jsonl", self.step)
            for log in (self.metrics, self.speed, self.events):
                stack.callback(log.close)
            self.engine.start_trackers("tracker", {"recipe": self.recipe.model_dump_json()})

    def _log(self, ticker: Ticker | None, seconds_waited: float) -> None:
        """One line of metrics.jsonl, the same whenever and however often it is computed; timing goes elsewhere."""
        total = self.engine.sum(self.window.sums.clone())
        self.window.clear()
        if not self.run or not total[0]:
            return
        means = self.window.means(total, has_vb=self.recipe.diffusion.learn_sigma)
        spec = self.recipe.train
        lr = lr_at(spec.lr_schedule, spec.lr, self.step - 1, spec.steps)
        self.metrics.write({"step": self.step, "images": self.step * spec.batch_size, **means, "lr": lr})
        speed = self.clock.lap(self.step, spec.batch_size, seconds_waited)
        self.speed.write({"step": self.step, **speed})
        self.engine.track(means | {"lr": lr} | speed, self.step)
        self.last_note = f"step {self.step:,}  loss {means['loss']:.4f}"

    def _checkpoint(self) -> None:
        """Gather (all ranks, where weights are sharded), then write (the main one)."""
        window = self.engine.sum(self.window.sums.clone())
        if not self.engine.is_main:
            self.window.clear()  # rank 0 holds the sums of all from here on
        files = {
            "model": whole(dict(self.network.named_parameters())),
            "optimizer": whole(optimizer_tensors(self.network, self.optimizer)),
        }
        files |= {stem: whole(weights) for stem, weights in self.ema.averages.items()}
        if not self.run:
            return
        self.window.sums.copy_(window)
        for log in (self.metrics, self.speed, self.events):
            log.sync()
        state = {"rollbacks": self.rollbacks, "skipped_in_a_row": self.skipped_in_a_row, "window": window.tolist()}
        write_checkpoint(self.folder, self.step, files, state, self.run.checkpoint_metadata)
        prune(self.folder, self.recipe.train.keep_last, self.recipe.train.keep_every)

    def _snapshot(self, ema: PowerEma) -> None:
        averages = {stem: whole(weights) for stem, weights in ema.averages.items()}
        if self.run:
            write_snapshot(self.folder, self.step, averages, ema.stds)

    def _resume(self) -> None:
        """Take up the newest undamaged checkpoint, if there is one."""
        checkpoint = newest_checkpoint(self.folder)
        if checkpoint is None:
            return
        state = read_state(checkpoint)
        fill(dict(self.network.named_parameters()), read_tensors(checkpoint, "model"))
        for stem, weights in self.ema.averages.items():
            fill(weights, read_tensors(checkpoint, stem))
        restore_optimizer(self.network, self.optimizer, read_tensors(checkpoint, "optimizer"))
        self.step, self.rollbacks = state["step"], state["rollbacks"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.window = Window(self.engine.device, state["window"] if self.engine.is_main else None)

    # What people look at

    def _preview(self) -> None:
        """A grid of the averaged network's samples, always from the same noise and classes."""
        weights = whole(self.ema.averages["ema"])  # collective where sharded; the rest is not
        if self.run:
            draw_preview(weights, self.recipe, self.store.contract, self.engine.device, self.folder, self.step)

    def _preview_is_due(self, done: bool) -> bool:
        """Step 0 too, which is noise to see later ones against."""
        every = self.recipe.train.preview_every
        return every > 0 and (done or self.step % every == 0)

    def _introduce(self, scan: str, why: str) -> None:
        recipe, spec = self.recipe, self.recipe.train
        weights = 4 * self.num_parameters
        checkpoint = weights * (3 + len(self.ema.averages))
        at = f"going on at step {self.step:,} of" if self.step else "training"
        stderr.print(
            f"{recipe.name}: {self.num_parameters:,} parameters, {at} {spec.steps:,} steps of {spec.batch_size} "
            f"on {len(self.store):,} pictures; {self.engine.world_size} x {self.engine.device.type}, "
            f"{self.engine.precision}; scan: {scan} ({why})"
        )
        stderr.print(
            f"Memory without activations: {format_bytes(weights * (4 + len(self.ema.averages)))}. "
            f"Disk: {format_bytes(checkpoint)} a checkpoint, up to {spec.keep_last + 1} at once in {self.folder}/"
        )

    def _stop(self, interrupts: Interrupts) -> None:
        name = interrupts.received.name if interrupts.received else "a signal on another rank"
        if self.engine.is_main:
            stderr.print(f"{name}: checkpoint of step {self.step:,} written. Run the same command to go on.")
        self.engine.close()
        raise SystemExit(EXIT_INTERRUPTED)

    def _feed(self) -> Feed:
        engine, spec = self.engine, self.recipe.train
        plan = BatchPlan(len(self.store), spec.batch_size, self.seed, engine.rank, engine.world_size)
        return Feed(
            self.store, plan, self.step, spec.steps, self.recipe.data.horizontal_flip, pin=engine.device.type == "cuda"
        )


def _share_of_batch(recipe: Recipe, world_size: int) -> int:
    spec = recipe.train
    share, rest = divmod(spec.batch_size, world_size)
    if rest:
        raise DiscliError(
            f"train.batch_size {spec.batch_size} does not divide among {world_size} processes.",
            f"Use a multiple of {world_size}: batch_size is the sum over all processes.",
        )
    if spec.micro_batch and share % spec.micro_batch:
        raise DiscliError(
            f"train.micro_batch {spec.micro_batch} does not divide the {share} samples of each process.",
            "Use a divisor of train.batch_size / number of processes.",
        )
    return share
