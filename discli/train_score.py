"""Scores of a run in progress: a distance between samples of the averaged weights and the data."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.codecs import load_codec
from discli.console import format_seconds, stderr
from discli.errors import DiscliError
from discli.eval_processes import Processes
from discli.eval_reference import Scanner, check_statistics, gather_statistics, open_reference
from discli.metrics import (
    Extractor,
    Inception,
    Moments,
    RandomFeatures,
    find_convention,
    frechet_distance,
    measure,
    score_name,
)
from discli.preview import draw_samples
from discli.recipe import DataContract, Recipe

_BATCH = 64


class TrainingScore:
    """What ``[train.score]`` asks for. The reference's statistics are taken once, or from the cache."""

    def __init__(self, recipe: Recipe, contract: DataContract, data_file: Path, device: torch.device) -> None:
        """Raises DiscliError for what could only fail later: missing weights, a reference that does not fit."""
        self._recipe, self._device = recipe, device
        self._spec = recipe.train.score
        self._codec = load_codec(contract.codec, device)
        self._extractor = self._load_extractor()
        reference = open_reference(self._spec.reference or data_file, device)
        if reference.published is not None:
            check_statistics(reference, self._extractor)
            statistics = reference.published
        else:
            assert reference.pictures is not None
            alone = Scanner(self._extractor, _BATCH, Processes())
            statistics, _ = gather_statistics(reference.pictures, alone)
        side = statistics.about.get("resolution", [contract.resolution])[0]
        if side != contract.resolution:
            raise DiscliError(
                f"train.score.reference {reference.path} is of {side} px, the data of {contract.resolution}.",
                f"Make one of the same pictures: discli eval-fid --make-ref {data_file} --out ref.npz",
            )
        self._reference = statistics.gaussians["features"]

    def __call__(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The score by its honest name, and what it is the score of."""
        started = time.monotonic()
        spec, recipe = self._spec, self._recipe
        steps = spec.sampling_steps or recipe.sample.steps
        moments = Moments(self._extractor.dims["features"])
        measure(draw_samples(weights, recipe, self._codec, self._device, spec.n, steps), self._extractor, [moments])
        name = score_name("fid", self._extractor.name)
        distance = frechet_distance(moments.gaussian(), self._reference)
        stderr.print(f"{name} of {spec.n:,} samples: {distance:.4g} ({format_seconds(time.monotonic() - started)})")
        return {
            name: distance,
            "n": spec.n,
            "sampling_steps": steps,
            "cfg_scale": recipe.sample.cfg_scale,
            "weights_sha256": self._extractor.weights_sha256,
        }

    def _load_extractor(self) -> Extractor:
        if self._spec.features == "random":
            return RandomFeatures(self._device)
        return Inception(None, find_convention("torch-fidelity"), self._device)
