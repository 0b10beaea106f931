"""Previews and scores during training, of the averaged weights."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.data.autoencoders import Codec, load_codec
from discli.evaluation.extractor import load_extractor
from discli.evaluation.metric import MetricSetup, ReferenceStats, choose_metrics, measure, named_scores
from discli.evaluation.reference import Scanner, check_resolution, open_reference, reference_statistics
from discli.recipe import DataContract, Recipe
from discli.runs.layout import RunFolder
from discli.runs.logs import Log
from discli.runtime.console import format_seconds, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.process_group import ProcessGroup
from discli.training.engine import Engine, whole
from discli.training.interrupts import Interrupts
from discli.training.preview import draw_preview, draw_samples

_BATCH = 64


class PreviewAndScore:
    """Makes images and scores at the steps for them, on the main process; the others only lend their shards."""

    def __init__(
        self, recipe: Recipe, contract: DataContract, folder: Path, engine: Engine, interrupts: Interrupts
    ) -> None:
        self._recipe, self._contract, self._folder, self._engine = recipe, contract, folder, engine
        self._interrupts = interrupts
        self._codec: Codec | None = None

    def open(self, data_file: Path, scores: Log) -> None:
        """On the main process, before the first step: what could fail fails here."""
        self._score: TrainingScore | None = None
        self._scores = scores
        if self._recipe.train.score.every > 0:
            with self._interrupts.give_up_when_asked("The score's reference"):
                self._score = TrainingScore(self._recipe, self._contract, data_file, self._load(), self._engine.device)

    def on_step(self, averaged: Mapping[str, Tensor], step: int, only_missing: bool = False) -> bool:
        """Called by all ranks after every step, and with ``only_missing`` before the first one.

        Whether anything was due, made or not: asked to stop, the run gives it up. A run stopped or killed
        between a checkpoint and its preview makes up for it when it starts again. Step 0 has a preview, which
        is noise to see later ones against, only where ``train.preview_first`` asks for it.
        """
        spec, engine = self._recipe.train, self._engine
        preview = (step > 0 or spec.preview_first) and is_due(spec.preview_every, step, spec.steps)
        score = step > 0 and is_due(spec.score.every, step, spec.steps)
        if not (preview or score):
            return False
        path = RunFolder(self._folder).preview(step)
        if only_missing:  # which the main process knows
            preview = preview and engine.is_main and not path.exists()
            score = score and engine.is_main and all(line["step"] != step for line in self._scores.lines())
            preview, score = engine.any(preview, score)
        if not (preview or score):
            return False
        weights = whole(averaged, wanted=engine.is_main)  # the last that all ranks do together
        if engine.is_main and preview:
            stderr.print(f"Drawing {self._recipe.train.preview_count} images of step {step:,}: {path}")
            with self._interrupts.give_up_when_asked(f"The preview of step {step:,}"):
                try:
                    codec = self._load()
                except DiscliError as error:  # costs the preview, not the run
                    stderr.print(f"No preview: {error}", style="yellow")
                else:
                    draw_preview(weights, self._recipe, codec, engine.device, path)
        if engine.is_main and score and self._score:
            with self._interrupts.give_up_when_asked(f"The score of step {step:,}"):
                found = self._score(weights)
                self._scores.write({"step": step, **found})
                engine.track({name: value for name, value in found.items() if isinstance(value, float)}, step)
        return True

    def _load(self) -> Codec:
        """Once a run: an autoencoder takes seconds to load and to check."""
        if self._codec is None:
            self._codec = load_codec(self._contract.codec, self._engine.device)
        return self._codec


def is_due(every: int, step: int, last: int) -> bool:
    """Whether something happens after ``step``: every so often (0: never), and at the last one."""
    return every > 0 and (step % every == 0 or step == last)


class TrainingScore:
    """What ``[train.score]`` asks for. The reference's statistics are taken once, or from the cache."""

    def __init__(
        self, recipe: Recipe, contract: DataContract, data_file: Path, codec: Codec, device: torch.device
    ) -> None:
        """Raises DiscliError for what could only fail later: missing weights, a reference that does not fit."""
        self._recipe, self._device = recipe, device
        self._spec = recipe.train.score
        self._codec = codec
        self._extractor = load_extractor(self._spec.features, None, None, device)
        self._extractor.own_teacher = contract.is_teacher(recipe, self._extractor.weights_sha256)
        reference = open_reference(self._spec.reference or data_file, device)
        check_resolution(reference, contract.resolution)
        statistics, _ = reference_statistics(reference, Scanner(self._extractor, _BATCH, ProcessGroup()))
        self._reference = ReferenceStats(statistics.gaussians, {})

    def __call__(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The score by its honest name, and what it is the score of."""
        started = time.monotonic()
        spec, recipe = self._spec, self._recipe
        steps = spec.sampling_steps or recipe.sample.steps
        [fid] = [
            metric(MetricSetup(spec.n, self._extractor)) for metric in choose_metrics(["fid"], type(self._extractor))
        ]
        measure(draw_samples(weights, recipe, self._codec, self._device, spec.n, steps), self._extractor, [fid])
        found = named_scores(fid, self._extractor, self._reference)
        shown = ", ".join(f"{name} of {spec.n:,} samples: {value:.4g}" for name, value in found.items())
        stderr.print(f"{shown} ({format_seconds(time.monotonic() - started)})")
        return {
            **found,
            "n": spec.n,
            "sampling_steps": steps,
            "cfg_scale": recipe.sample.cfg_scale,
            "weights_sha256": self._extractor.weights_sha256,
        }
