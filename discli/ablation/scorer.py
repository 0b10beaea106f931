"""Scores of one trained run under several settings of sampling, each computed once: for sweeps, and for tuning."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from discli.data.contact_sheet import save_image
from discli.evaluation.evaluate import evaluate
from discli.evaluation.extractor import load_extractor
from discli.evaluation.reference import open_reference, trained_on
from discli.evaluation.sampled import SampledImages
from discli.recipe.size import Size
from discli.runs.checkpoint import newest_checkpoint
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runs.layout import RunFolder, ema_file
from discli.runs.manifest import Manifest
from discli.runtime.devices import pick_device
from discli.runtime.files import sha256_of, to_json, write_text
from discli.sampling.load import LoadedModel, load
from discli.sampling.sample import sample
from discli.sampling.settings import SampleSettings
from discli.training.posthoc_ema import posthoc_ema


class SweptScore(BaseModel):
    """One setting and its score, lower is better; ``ema`` is the relative width of the average, None the run's own."""

    cfg_scale: float
    ema: float | None
    steps: int
    nfe: int  # network calls an image
    score: float

    @property
    def setting(self) -> str:
        """Guidance and average."""
        return f"guidance {self.cfg_scale:g}" + ("" if self.ema is None else f", EMA {self.ema:g}")

    def describe(self) -> str:
        return f"{self.setting}, {self.steps} steps"


def swept(ema: float | None, result: EvalResult, score: float) -> SweptScore:
    """The setting that a score of a run is of."""
    made = result.samples
    assert made.cfg_scale is not None  # drawn by discli, which says how
    assert made.steps is not None
    return SweptScore(cfg_scale=made.cfg_scale, ema=ema, steps=made.steps, nfe=made.nfe or made.steps, score=score)


def at_edges(best: SweptScore, tried: Sequence[SweptScore]) -> Iterator[str]:
    """Where ``best`` has the lowest or highest value that was tried, beyond which there may be better.

    Guidance of 1 is none, and nobody looks below it.
    """
    ranges: tuple[tuple[str, Callable[[SweptScore], float | None]], ...] = (
        ("guidance", lambda each: each.cfg_scale), ("EMA", lambda each: each.ema), ("steps", lambda each: each.steps)
    )  # fmt: skip
    for what, of in ranges:
        values = sorted({value for each in tried if (value := of(each)) is not None})
        at = of(best)
        if len(values) > 1 and at in (values[0], values[-1]) and (what, at) != ("guidance", 1.0):
            yield f"{what} {at:g} is the {'lowest' if at == values[0] else 'highest'} tried"


class Scorer:
    """Scores and images of settings, in a folder by all that they depend on but where the run lies.

    ``folder``/scores has a file each, ``folder``/ema-STD the averages that were rebuilt from snapshots: runs that
    can be sampled from.
    """

    def __init__(
        self,
        folder: Path,
        run: Path,
        *,
        features: str,
        ref: str | Path | None = None,
        metrics: Sequence[str] = ("fid",),
        device: str | None = None,
    ) -> None:
        self._folder, self._run, self._features, self._ref = folder, run, features, ref
        self._metrics, self._device = tuple(metrics), pick_device(device)
        self._models: dict[float | None, LoadedModel] = {}
        self._judge: dict[str, object] = {}
        self.new = False  # whether the last score was computed now

    def model(self, ema: float | None) -> LoadedModel:
        """The run with the average of this width. Raises DiscliError where there are no snapshots to make it of."""
        if ema not in self._models:
            path = self._run if ema is None else self._average(ema)
            self._models[ema] = load(path, str(self._device))
        return self._models[ema]

    def score(self, ema: float | None, settings: SampleSettings, n: int, seed: int) -> EvalResult:
        images = SampledImages(self.model(ema), self._device, settings, seed)
        images.take(n)
        path = self._file(images, "json")
        self.new = not path.exists()
        if not self.new:
            return read_eval_result(path)
        result = evaluate(
            images,
            self._ref,
            features=self._features,
            metrics=self._metrics,
            n=n,
            bootstrap=0,
            device=str(self._device),
        )
        write_text(path, to_json(result))
        return result

    def strip(self, ema: float | None, settings: SampleSettings, count: int, path: Path | None = None) -> Path:
        """A file of the first ``count`` images of seed 0, classes in turn, beside one another without gaps."""
        model = self.model(ema)
        if path is None:
            images = SampledImages(model, self._device, settings)
            images.take(count)
            path = self._file(images, "png")
            if path.exists():
                return path
        classes = "balanced" if model.recipe.model.num_classes else "random"
        pixels = sample(model, count, classes=classes, device=str(self._device), **settings).pixels
        save_image(Image.fromarray(pixels.permute(2, 0, 3, 1).flatten(1, 2).contiguous().numpy()), path)
        return path

    def _file(self, images: SampledImages, kind: str) -> Path:
        about = images.manifest.model_dump(mode="json", exclude={"run", "checkpoint", "data_file"})
        about |= self._judged_by(images.manifest) if kind == "json" else {}
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
        (self._folder / "scores").mkdir(parents=True, exist_ok=True)
        return self._folder / "scores" / f"{key}.{kind}"

    def _judged_by(self, made: Manifest) -> dict[str, object]:
        """What a score depends on beside its samples, by content: files may be replaced between two sessions."""
        if not self._judge:
            reference = open_reference(Path(self._ref or trained_on(self._run, made)), self._device)
            images, extractor = reference.images, load_extractor(self._features, None, None, self._device)
            content = sha256_of(reference.path) if images is None else images.content_sha256()
            self._judge = {
                "metrics": self._metrics,
                "features": [extractor.name, extractor.weights_sha256],
                "reference": [reference.kind, content],
            }
        return self._judge

    def _average(self, ema: float) -> Path:
        """A run of the average of this width, made once of the snapshots that the run has now."""
        out = self._folder / f"ema-{ema:g}"
        snapshots = RunFolder(self._run).find_snapshots()
        made = newest_checkpoint(out)
        if made is not None and snapshots and int(made.name) == max(step for step, _ in snapshots):
            newest = max(path.stat().st_mtime_ns for path in snapshots.values())
            if ema_file(made).stat().st_mtime_ns >= newest:  # or the run was trained anew
                return out
        return posthoc_ema(self._run, ema, out=out)


def read_strip(path: Path, size: Size) -> Tensor:
    """(n, 3, H, W) uint8 of images of ``size`` beside one another. Pillow's plugins raise all sorts of errors."""
    with Image.open(path) as strip:
        pixels = torch.from_numpy(np.asarray(strip.convert("RGB")).copy())
    return torch.stack(pixels.split(size.width, dim=1)).permute(0, 3, 1, 2)
