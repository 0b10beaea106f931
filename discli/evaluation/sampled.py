"""Images that are scored as they are drawn and never stored: ``discli eval-fid RUN -n 5000``."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from discli.recipe.size import Size
from discli.runs import layout
from discli.sampling.generate import generate
from discli.sampling.load import LoadedModel
from discli.sampling.plan import plan_sampling
from discli.sampling.settings import SampleSettings


class SampledImages:
    """A run's samples, by default with the settings of its recipe and seed 0: those of ``discli sample RUN``."""

    kind = "samples, drawn while they were scored"

    def __init__(
        self, run: Path | LoadedModel, device: torch.device, settings: SampleSettings | None = None, seed: int = 0
    ) -> None:
        self.path = run.checkpoint if isinstance(run, LoadedModel) else run
        self._plan = plan_sampling(run, settings, seed=seed, device=str(device))
        model = self._plan.model
        model.load_codec()  # where there is none, it says so now
        self.class_names: Sequence[str] = model.contract.class_names
        self.take(model.recipe.eval.n)

    def take(self, n: int | None) -> range:
        """Their number is for the asker to choose; None: the recipe's."""
        self.n = n or self._plan.model.recipe.eval.n
        self.labels = self._plan.labels(torch.arange(self.n))
        self.manifest = self._plan.manifest(self.n, "none")
        return range(self.n)

    @property
    def size(self) -> Size:
        return self._plan.size

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        """Whole groups are drawn, and those of ``indices`` (ascending) handed on; of group's size at most."""
        wanted, size = set(indices), self._plan.model_batch
        groups = sorted({index // size for index in indices})
        for members, images in generate(self._plan, max(indices, default=-1) + 1, groups):
            chosen = [place for place, member in enumerate(members) if member in wanted]
            yield from images[chosen].split(batch_size)

    def content_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.manifest.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def is_run(path: Path) -> bool:
    """A run's folder, one of its checkpoints, or a file of weights, such as a model's."""
    return layout.is_run(path) or layout.is_checkpoint(path) or path.suffix == ".safetensors"
