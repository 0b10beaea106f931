"""One run's steps: batch -> loss -> gradients -> optimizer and averages. What is written down: `record`."""

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from discli.cost.flops import training_flops
from discli.cost.peak import peak_flops
from discli.data.device import OnDevice
from discli.data.holdout import split_of
from discli.data.store import Store
from discli.evaluation.reference import open_reference
from discli.model import DiS
from discli.model.compiled import compile_blocks
from discli.model.mixers import choose_scan
from discli.recipe import Recipe
from discli.recipe.train import share_of_batch
from discli.runs.checkpoint import newest_checkpoint
from discli.runs.layout import EMA, RunFolder
from discli.runs.run import ENDED, Run
from discli.runtime.console import progress, stderr
from discli.runtime.errors import DiscliError
from discli.training.announce import say_what_it_takes
from discli.training.auxiliary import Auxiliary
from discli.training.batches import Batch, BatchPlan, Feed
from discli.training.begin import Beginning, freeze
from discli.training.callbacks import PreviewAndScore
from discli.training.clock import Clock
from discli.training.ema import build_ema
from discli.training.engine import Engine
from discli.training.graphs import StepGraph
from discli.training.holdout import HeldOutLoss
from discli.training.interrupts import Interrupts, TrainingStoppedError
from discli.training.optimizers import build_optimizer
from discli.training.record import Record
from discli.training.state import TrainingState
from discli.training.step_loss import Inputs, StepLoss


class Trainer:
    """Everything that changes from step to step, and the loop that changes it."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        engine: Engine,
        folder: Path,
        run: Run | None,
        interrupts: Interrupts,
        beginning: Beginning | None = None,
        still: Collection[str] = (),
    ) -> None:
        """``beginning``: where the first weights come from; ``still``: parameters that keep them."""
        self.recipe, self.store, self.engine, self.folder, self.run = recipe, store, engine, folder, run
        self.files = RunFolder(folder)
        self.interrupts = interrupts
        spec = recipe.train
        self.share = share_of_batch(spec, engine.world_size)
        self.train_samples, held_out = split_of(recipe, store)
        self.source = OnDevice(store, engine.device) if recipe.data.cache == "device" else store

        self.scan = choose_scan(recipe.model, engine.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed.init)
            self.network = DiS.from_recipe(recipe)
        if beginning:
            beginning.into(self.network)
        freeze(self.network, still)
        self.network.checkpoint_blocks = spec.activation_checkpointing
        self.num_parameters = sum(p.numel() for p in self.network.parameters())
        self.num_trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)

        self.auxiliary = Auxiliary(recipe, store.contract, self.network, engine)
        if spec.compile:
            compile_blocks(self.network, engine.device)
        self.model = engine.wrap(self.network, self.network.blocks)
        self.optimizer = build_optimizer(self.network, spec)
        if engine.world_size > 1 and not engine.sharded:
            self.optimizer.share_work(engine.rank, engine.world_size, engine.exchange)
        self.ema = build_ema(spec.ema, self.network)
        if beginning:
            beginning.into_averages(self.ema)
        self.step_loss = StepLoss(recipe, store.contract, self.network, self.model, self.auxiliary, engine)
        self.auxiliary.learn_from(recipe, self.ema.averages[EMA], self.step_loss.diffusion)
        self.state = TrainingState(folder, self.network, self.optimizer, self.ema, engine, self.auxiliary)
        # Kept as the checkpoint of step 0: the model that the run begins from may change, or go.
        self.record = Record(recipe, run, engine, self.state)
        self.unsaved = not self.state.resume() and beginning is not None
        parameters = (*self.network.parameters(), *self.auxiliary.losses.parameters())
        if spec.cuda_graphs and store.shapes is not None:
            raise DiscliError(
                f"train.cuda_graphs: {store.title} holds images of several shapes, each of which needs its own graph.",
                "Leave it out, or encode images of one shape.",
            )
        self.graph = StepGraph(self._passes, self._forget, parameters) if spec.cuda_graphs else None
        self.metadata = run.checkpoint_metadata if run else None
        self.checkpointed = self.state.step
        self.previews = PreviewAndScore(self._as_previewed(), store.contract, folder, engine, interrupts)
        self.held_out_loss = HeldOutLoss(recipe, store, self.train_samples, held_out, engine, interrupts)

        peak = peak_flops(engine.device, engine.precision, spec.tf32, spec.peak_tflops)
        self.clock = Clock(self.state.step, spec.steps, training_flops(recipe), peak and peak * engine.devices)

    @property
    def noise_seed(self) -> int:
        """Another stream of noise after a roll-back."""
        return self.recipe.train.seed.noise + (self.state.rollbacks << 32)

    @property
    def order_seed(self) -> int:
        """Other data after a roll-back."""
        return self.recipe.train.seed.order + (self.state.rollbacks << 32)

    def loop(self) -> None:
        spec, engine, state = self.recipe.train, self.engine, self.state
        if self.unsaved:
            self._checkpoint()
        self._look(only_missing=True)
        with ExitStack() as stack:
            ticker = None
            if engine.is_main:
                bar = progress(self.recipe.name, spec.steps, "steps", state.step, (spec.batch_size, "images"))
                ticker = stack.enter_context(bar)
            feed = stack.enter_context(ExitStack())
            batches = feed.enter_context(self._feed())
            self.clock.restart(state.step)
            rehearse = engine.needs_rehearsal

            while state.step < spec.steps:
                batch = next(batches)
                if rehearse:
                    self._forward_backward(batch)
                    self._forget()
                    self.clock.restart(state.step, batches.seconds_waited)
                    rehearse = False
                norm = self._forward_backward(batch)

                # One agreement a step: every rank skips, stops or continues together.
                asked = self.interrupts.received is not None
                grad_norm, broken, asked_to_stop = engine.agree(norm, state.window.is_finite(), asked)
                if not broken:
                    self._update(grad_norm)
                else:
                    self._skip(batch, grad_norm)
                    if state.skipped_in_a_row >= spec.skip_limit:
                        self._roll_back()
                        if ticker:
                            ticker.advance(state.step - ticker.done)
                        feed.close()
                        batches = feed.enter_context(self._feed())
                        continue
                state.step += 1

                done = state.step == spec.steps
                if state.step % spec.log_every == 0 or done:
                    self._log(batches.seconds_waited)
                if ticker:
                    self.clock.estimate(state.step, engine.device)
                    ticker.advance(1, self.record.last_note)
                state.snapshot(self.metadata)
                if state.step % spec.checkpoint_every == 0 or done or asked_to_stop:
                    self._checkpoint()
                if asked_to_stop and not done:
                    self._stop()
                with self.clock.paused():
                    self._look()

    # One step

    def _forward_backward(self, batch: Batch) -> Tensor:
        """Gradients of the mean loss over the global batch, clipped; returns their norm before clipping, ()."""
        self._window_before = self.state.window.sums.clone()
        micro = self.recipe.train.micro_batch or self.share
        parts = (slice(start, start + micro) for start in range(0, self.share, micro))
        inputs = (self.step_loss.draw(self.noise_seed, batch, part) for part in parts)
        return self._passes(inputs) if self.graph is None else self.graph(tuple(inputs), self.state.window)

    def _passes(self, inputs: Iterable[Inputs]) -> Tensor:
        """Of all micro-batches in turn."""
        spec, engine = self.recipe.train, self.engine
        done = 0
        for part in inputs:
            done += len(part.x_t)
            with engine.accumulate(self.model, last=done == self.share):
                losses = self.step_loss(part, self.state.window)
                (losses.sum() / self.share).backward()
        norm, further = engine.clip(self.network, spec.grad_clip), self.auxiliary.clip(spec.grad_clip)
        return torch.where(torch.isfinite(further), norm, further)  # what is not finite there breaks the step, too

    def _update(self, grad_norm: float) -> None:
        spec = self.recipe.train
        lr = spec.lr_schedule.at(spec.lr, self.state.step, spec.steps)
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.auxiliary.update(lr)
        self.ema.update(self.network, self.state.step + 1)
        self.state.window.add_step(grad_norm)
        self.state.skipped_in_a_row = 0
        self.state.good_steps += 1

    # When numbers go wrong

    def _forget(self) -> None:
        """Drop what the last pass forward and backward has left: gradients, and its part in the log's averages."""
        self.optimizer.zero_grad(set_to_none=True)
        self.auxiliary.forget()
        self.state.window.sums.copy_(self._window_before)

    def _skip(self, batch: Batch, grad_norm: float) -> None:
        """Leave weights, averages and optimizer as they are; write down what the step had seen."""
        self._forget()
        self.state.skipped_in_a_row += 1
        self.record.skipped(grad_norm, self._plan().indices(batch.step).tolist())

    def _roll_back(self) -> None:
        """Back to the last checkpoint with other data. Again before the next checkpoint means that training is broken.

        Each roll-back thus has a later checkpoint to go back to than the one before.
        """
        state, spec, limit = self.state, self.recipe.train, self.recipe.train.skip_limit
        too_soon = state.rollbacks > 0 and state.good_steps < spec.checkpoint_every
        if too_soon or newest_checkpoint(self.folder) is None:
            why = (
                f"{state.good_steps} good steps after rolling back" if too_soon else "with no checkpoint to go back to"
            )
            self.record.event(ENDED, state.step + 1)
            raise DiscliError(
                f"{limit} steps in a row were not finite at step {state.step + 1}, {why}.",
                f"See {self.files.log('events')}; the run may be resumed with --set train.lr= or train.grad_clip= "
                f"below {spec.lr:g} and {spec.grad_clip:g}, or train.precision=fp32.",
                status=1,
            )
        self.record.event("rolled back", state.step + 1)
        rollbacks = state.rollbacks + 1
        state.resume()
        state.rollbacks, state.skipped_in_a_row, state.good_steps = rollbacks, 0, 0
        self.checkpointed = state.step
        self.clock.restart(state.step)
        self.record.rolled_back()

    # What is written down

    def _as_previewed(self) -> Recipe:
        """Where the recipe leaves both to the machine, previews and scores are in the precision of the training."""
        recipe = self.recipe
        if (recipe.train.precision, recipe.sample.precision) != ("auto", "auto"):
            return recipe
        sample = recipe.sample.model_copy(update={"precision": self.engine.precision})
        return recipe.model_copy(update={"sample": sample})

    def say_what_it_takes(self, data_file: Path, goes_on: bool) -> None:
        say_what_it_takes(
            self.recipe,
            self.engine,
            folder=self.folder,
            data_file=data_file,
            samples=len(self.train_samples),
            step=self.state.step,
            parameters=self.num_parameters,
            averages=len(self.ema.averages),
            trained=self.num_trained,
            scan=f"{self.scan.name} ({self.scan.reason})",
            goes_on=goes_on,
        )

    def dry_run(self, data_file: Path) -> None:
        """What could still go wrong before the first step; nothing has been written until here."""
        if self.recipe.train.score.every:
            open_reference(self.recipe.train.score.reference or data_file, self.engine.device)
        if self.run:
            stderr.print("A dry run: nothing was written. Leave out --dry-run to train.")
        self.engine.close()

    def open_logs(self, stack: ExitStack, run: Run, data_file: Path) -> None:
        """On the main process: open the logs, and make ready to score samples."""
        self.record.open(stack, run, self.scan.name)
        self.previews.open(data_file, self.record.logs.scores)
        self.held_out_loss.open(self.record.logs.holdout, self.files.first_losses)
        self.record.start_tracker(run)

    def _log(self, seconds_waited: float) -> None:
        total = self.engine.sum(self.state.window.sums.clone())
        self.state.window.clear()
        self.record.measured(total, self.clock, seconds_waited)

    def _checkpoint(self) -> None:
        self.record.sync()
        self.state.checkpoint(self.metadata, self.recipe.train)
        self.checkpointed = self.state.step

    def _look(self, only_missing: bool = False) -> None:
        """Previews and scores, given up where the run is asked to stop meanwhile: then it stops here."""
        averaged, step = self.ema.averages[EMA], self.state.step
        measured = self.held_out_loss.on_step(averaged, step, only_missing)
        looked = self.previews.on_step(averaged, step, only_missing) or measured
        if looked and self.engine.any(self.interrupts.received is not None)[0]:
            if self.checkpointed != self.state.step:
                self._checkpoint()
            self._stop()

    def _stop(self) -> NoReturn:
        received = self.interrupts.received
        self.engine.close()
        raise TrainingStoppedError(received.name if received else "a signal on another rank", self.state.step)

    def _feed(self) -> Feed:
        engine, spec = self.engine, self.recipe.train
        plan = self._plan(engine.rank, engine.world_size, one_more=self.recipe.diffusion.contrastive > 0)
        pin = engine.device.type == "cuda" and self.source is self.store
        flip = self.recipe.data.horizontal_flip
        return Feed(self.source, plan, self.state.step, spec.steps, flip, pin, self.auxiliary.features)

    def _plan(self, rank: int = 0, world_size: int = 1, one_more: bool = False) -> BatchPlan:
        samples = self.train_samples
        only = samples if len(samples) < len(self.store) else None
        shapes = None if self.store.shapes is None else self.store.shapes[samples]
        size, seed = self.recipe.train.batch_size, self.order_seed
        return BatchPlan(len(samples), size, seed, rank, world_size, only, one_more, shapes)
