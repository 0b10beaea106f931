"""``result.json`` of a study's trial, written and read through one class."""

from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from discli.ablation.scorer import SweptScore
from discli.recipe.seeds import Seeds
from discli.recipe.size import Size, as_size
from discli.recipe.spec import Count, Positive, PositiveInt, Real
from discli.runs.eval_result import EvalResult
from discli.runtime.files import read_model


class _Part(BaseModel):
    """Keys that are not known here are kept: another discli may have written them."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class CurvePoint(_Part):
    """A score along the way, of ``n`` samples."""

    step: Count
    score: Real
    n: PositiveInt


class Costs(BaseModel):
    """What is known of a trial before it is run."""

    parameters: PositiveInt
    forward_gflops: Positive  # of one image through the network
    steps: PositiveInt
    images: PositiveInt  # that are trained on
    training_tflops: Positive  # of all of them, forward and backward


class TrainingFacts(BaseModel):
    """What was measured while a trial was trained."""

    loss: Real  # the mean over the last tenth
    held_out_loss: Real | None = None  # at the last step, where images are held out
    seconds: Positive  # without scores and previews
    images_per_second: Positive
    peak_memory: Count  # bytes


class Tuned(_Part):
    """How a trial's samples are drawn, chosen by samples of ``seed``, which no score is of."""

    chosen: SweptScore
    tried: tuple[SweptScore, ...]
    n: PositiveInt  # samples of each
    seed: Count
    seconds: Real


class TrialResult(Costs, TrainingFacts, _Part):
    """One trained and scored trial. Lower scores are better."""

    format: Literal[1] = 1
    trial: str
    point: str
    seed: Seeds
    settings: dict[str, Any]  # dotted key -> value
    recipe: dict[str, Any]  # as it was written, of whichever version
    contract: dict[str, Any] = {}
    score: Real
    by_sampling: tuple[Real, ...] = ()  # the score by each sampling seed from 0, where there are several; else empty
    recognised_by_sampling: tuple[Real, ...] = ()  # as `by_sampling`, where classes are looked at
    score_name: str
    tuned: Tuned | None = None
    curve: tuple[CurvePoint, ...]
    eval: EvalResult
    environment: dict[str, str]

    @property
    def recognised(self) -> float | None:
        """Share of all samples recognised as the class asked for, where that was looked at."""
        if self.recognised_by_sampling:
            return fmean(self.recognised_by_sampling)
        return None if self.eval.recognised is None else self.eval.recognised.samples.share

    @property
    def scoring_seconds(self) -> float:
        """Of drawing and scoring all of its sets of samples, what it was tuned by left out."""
        return self.eval.seconds * max(1, len(self.by_sampling))

    @property
    def resolution(self) -> Size:
        """Of its images in pixels."""
        return as_size(self.recipe["data"]["resolution"])

    @property
    def objective(self) -> str:
        """By its name: losses of two objectives cannot be compared."""
        return str(self.recipe["diffusion"]["objective"]["name"])


def read_trial_result(path: Path) -> TrialResult:
    """Raises DiscliError where the file is corrupt."""
    return read_model(path, TrialResult, "Remove it: the trial is scored again from its run.")
