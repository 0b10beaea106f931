"""One trial of a study, from recipe to result: train -> tune -> score -> images -> ``result.json``.

Everything is in the trial's folder: ``run/`` is an ordinary run (resume it, sample from it, report on
it), ``scores/`` what was scored already, ``images.png`` the same noise and classes as in every other trial;
where `discli.ablation.workers` started it, ``log.txt`` is what it said and ``failed.txt`` why it failed when it
was last tried.
"""

import math
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from discli import __version__
from discli.ablation.scorer import Scorer, swept
from discli.ablation.trial_result import Costs, CurvePoint, TrainingFacts, TrialResult, Tuned, read_trial_result
from discli.cost.flops import forward_flops, training_flops
from discli.data.store import open_store
from discli.evaluation.floor import floor_of
from discli.model import DiS
from discli.recipe import Recipe, Study, Trial, parse_recipe
from discli.recipe.differences import differences
from discli.recipe.model import ModelSpec
from discli.recipe.size import Size
from discli.recipe.study import StudyScore, Tune
from discli.reports.fit import loss_gap
from discli.runs.eval_result import EvalResult
from discli.runs.layout import RunFolder
from discli.runs.logs import read_log
from discli.runtime.devices import device_name
from discli.runtime.errors import DiscliError
from discli.runtime.files import to_json, write_text
from discli.runtime.processes import is_locked, try_lock
from discli.runtime.signals import EXIT_INTERRUPTED
from discli.sampling.settings import SampleSettings, settle_settings
from discli.training.begin import frozen
from discli.training.train import train

RESULT, IMAGES, LOG, FAILURE = "result.json", "images.png", "log.txt", "failed.txt"
TUNING_SEED = 1_000  # those of scores are below 100
_LOCK = ".lock"

_LOSSES = ("held-out loss", "loss gap")
_MISSED = "not "  # before the name of a share that is better when higher
# Where a run lies, how it talks and what it keeps is nothing that a result depends on.
_NOT_COMPARED = {
    "data.file", "data.cache", "train.tracker", "train.log_every", "train.preview_every", "train.preview_first",
    "train.preview_count", "train.checkpoint_every", "train.keep_last", "train.keep_every", "train.peak_tflops",
}  # fmt: skip


def plan_recipe(study: Study, trial: Trial) -> Recipe:
    """The trial's recipe with the steps that the budget gives it and the scores along the way."""
    sketch = trial.recipe(steps=1)
    steps = study.budget.steps_of(sketch, training_flops(sketch))
    points = study.score.curve_points if study.score.by == "distance" else 0  # others have no such curve
    every = math.ceil(steps / points) if points else 0
    score = {"every": every, "n": study.score.curve_n, "features": study.score.features}
    tree = trial.recipe(steps).model_dump(mode="json")
    tree["train"] |= {"score": tree["train"]["score"] | score, "tracker": "none"}
    recipe = parse_recipe(tree, trial.name)
    if recipe.model.lora is not None:
        raise DiscliError(
            f"{trial.name}: model.lora needs a trained model, and trials begin from nothing.", "Leave model.lora out."
        )
    frozen(recipe, None)  # refused for parameters that are not there
    if study.score.tune is not None:
        _check_tune(study.score.tune, recipe, trial.name)
    return recipe


def _check_tune(tune: Tune, recipe: Recipe, name: str) -> None:
    """Raises DiscliError for what its network will not be able to do."""
    average = recipe.train.ema
    if tune.ema and (average.name != "power" or average.snapshot_every > recipe.train.steps):
        raise DiscliError(
            f"{name}: score.tune.ema chooses among averages, but the training keeps no snapshots to make them of.",
            'Say set.train.ema = { name = "power", stds = [0.05, 0.1], snapshot_every = ... } in the study,'
            f" with a snapshot before step {recipe.train.steps:,}.",
        )
    for scale, _ in tune.settings:
        settle_settings(recipe, drawn_with(scale))


def run_trial(study: Study, trial: Trial, folder: Path, data: Path | None) -> TrialResult:
    """Brings one trial to its result, from wherever it was left; one that is finished is left alone.

    Raises DiscliError, with status 75 when another process is at it or when asked to stop.
    """
    recipe = plan_recipe(study, trial)
    file = data or recipe.data.file
    if file is None:
        raise DiscliError(f"{trial.name}: no data file.", "Give --data FILE.h5 (discli encode writes one).")
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder, trial):
        found = read_result(study, trial, recipe, folder)
        if found is not None:
            return found
        run = run_in(folder).path
        train(recipe, data=file, out=run)
        # Named, for checkpoints know the data only where it was when they were written.
        reference = recipe.train.score.reference or file
        metrics = ("fid", "recognised") if counts_recognised(study, recipe) else ("fid",)
        scorer = Scorer(folder, run, features=study.score.features, ref=reference, metrics=metrics)
        tuned = _tune(study.score, scorer)
        ema, settings = (tuned.chosen.ema, drawn_with(tuned.chosen.cfg_scale)) if tuned else (None, SampleSettings())
        scored, *others = [scorer.score(ema, settings, study.score.n, seed) for seed in range(study.samplings)]
        scorer.strip(ema, settings, study.score.images, folder / IMAGES)
        score_name, score, along = _score(study, recipe, run, file, scored)
        by_sampling = [score, *(_score(study, recipe, run, file, other)[1] for other in others)]
        result = TrialResult(
            trial=trial.name,
            point=trial.point.name,
            seed=trial.seed,
            settings=trial.point.settings,
            recipe=recipe.model_dump(mode="json"),
            contract=open_store(file).contract.as_used_by(recipe).model_dump(mode="json"),
            score=statistics.fmean(by_sampling),
            by_sampling=tuple(by_sampling) if others else (),
            recognised_by_sampling=_shares((scored, *others)) if others else (),
            score_name=score_name,
            tuned=tuned,
            curve=along,
            eval=scored,
            environment=_environment(torch.device(scored.device)),
            **dict(costs(recipe)),
            **dict(_training_facts(run, recipe)),
        )
        write_text(folder / RESULT, to_json(result))
    return result


def _tune(score: StudyScore, scorer: Scorer) -> Tuned | None:
    """The best of what the study says to choose from, by what it is scored by; of equals the first."""
    if score.tune is None:
        return None
    n, tried, seconds = score.tune.n or score.n, [], 0.0
    for scale, ema in score.tune.settings:
        found = scorer.score(ema, drawn_with(scale), n, TUNING_SEED)
        tried.append(swept(ema, found, _by_samples(score.by, found)[1]))
        seconds += found.seconds
    chosen = min(tried, key=lambda each: each.score)
    return Tuned(chosen=chosen, tried=tuple(tried), n=n, seed=TUNING_SEED, seconds=round(seconds, 1))


def drawn_with(cfg_scale: float | None) -> SampleSettings:
    return SampleSettings() if cfg_scale is None else SampleSettings(cfg_scale=cfg_scale)


def read_result(study: Study, trial: Trial, recipe: Recipe, folder: Path) -> TrialResult | None:
    """The result in a trial's folder, if it has one. Raises DiscliError where it is of another recipe or number n."""
    path = folder / RESULT
    if not path.exists():
        return None
    result = read_trial_result(path)
    if scored_by(result) != study.score.by:
        raise DiscliError(
            f"{trial.name}: {folder} was scored by {result.score_name}, the study now says {study.score.by}.",
            f"Change it back, or remove {RESULT} in every trial: they are scored again from their runs.",
        )
    before = parse_recipe(result.recipe, str(path)).model_dump(mode="json")
    n = result.eval.samples.n
    changed = differences(before, recipe.model_dump(mode="json"))
    # When to score follows from the steps, which are the better explanation, and from what the study is scored by.
    for key, old, new in sorted(changed, key=lambda change: change[0] == "train.score.every"):
        if key not in _NOT_COMPARED and not key.startswith("eval."):
            raise DiscliError(
                f"{trial.name}: {folder} was run with {key} = {old!r}, the study now says {new!r}.",
                "Give another --out for the changed study, or change it back.",
            )
    samplings = max(1, len(result.by_sampling))
    if study.samplings != samplings:
        raise DiscliError(
            f"{trial.name}: {folder} was scored with {samplings} sampling seeds, the study now says {study.samplings}.",
            f"Change it back, or remove {RESULT} in every trial: they are scored again from their runs.",
        )
    if _tuning(result) != _tuning_asked(study, recipe):
        raise DiscliError(
            f"{trial.name}: {folder} was tuned over other settings or samples than score.tune now says.",
            f"Change it back, or remove {RESULT} in every trial: they are scored again from their runs.",
        )
    if n != study.score.n:  # on which every distance depends
        raise DiscliError(
            f"{trial.name}: {folder} was scored with n = {n:,}, the study now says {study.score.n:,}.",
            f"Change it back, or remove {RESULT} in every trial: they are scored again from their runs.",
        )
    return result


def _tuning(result: TrialResult) -> object:
    """What a trial was tuned over, and by how many samples."""
    tuned = result.tuned
    return tuned and (tuned.n, [(each.cfg_scale, each.ema) for each in tuned.tried])


def _tuning_asked(study: Study, recipe: Recipe) -> object:
    tune = study.score.tune
    own = recipe.sample.cfg_scale
    return tune and (
        tune.n or study.score.n, [(own if scale is None else scale, ema) for scale, ema in tune.settings]
    )  # fmt: skip


def run_in(folder: Path) -> RunFolder:
    """The run of the trial in ``folder``."""
    return RunFolder(folder / "run")


def failure_of(folder: Path) -> str | None:
    """Why the trial in ``folder`` failed when it was last tried; None while a process is at it."""
    path = folder / FAILURE
    if not path.exists() or is_held(folder):
        return None
    return path.read_text(encoding="utf-8", errors="replace").strip()


def is_held(folder: Path) -> bool:
    """Whether a process is at the trial in ``folder`` now."""
    return is_locked(folder / _LOCK)


def costs(recipe: Recipe) -> Costs:
    """What is known of a trial before it is run."""
    images = recipe.train.steps * recipe.train.batch_size
    return Costs(
        parameters=_parameters(recipe.model, recipe.input_size, recipe.in_channels, recipe.out_channels),
        forward_gflops=sum(forward_flops(recipe).values()) / 1e9,
        steps=recipe.train.steps,
        images=images,
        training_tflops=training_flops(recipe) * images / 1e12,
    )


@cache  # seeds share a network, and one of a billion takes long to lay out
def _parameters(model: ModelSpec, input_size: Size, in_channels: int, out_channels: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in DiS(model, input_size, in_channels, out_channels).parameters())


def counts_recognised(study: Study, recipe: Recipe) -> bool:
    """Whether samples are looked at by class: there are classes to ask for, and the data file's images to learn from.

    A reference of one's own may be statistics alone; it is asked for classes only where the study is scored by them.
    """
    return study.score.by == "recognised" or (recipe.model.num_classes > 1 and recipe.train.score.reference is None)


def scored_by(result: TrialResult) -> str:
    """As a study says it: its ``score.by``."""
    if result.score_name in _LOSSES:
        return result.score_name
    return "recognised" if result.score_name.startswith(_MISSED) else "distance"


def _score(
    study: Study, recipe: Recipe, run: Path, file: Path, scored: EvalResult
) -> tuple[str, float, tuple[CurvePoint, ...]]:
    """Name, value and curve of what the study is scored by; lower is better."""
    if study.score.by not in _LOSSES:
        name, value = _by_samples(study.score.by, scored)
        return name, value, curve(run, name)
    lines = read_log(RunFolder(run).log("holdout"))
    values = [float(line["loss_held_out"]) for line in lines]
    if study.score.by == "loss gap":
        floor = floor_of(file, recipe)
        values = [loss_gap(line, floor).gap for line in lines]
    along = [
        CurvePoint(step=line["step"], score=value, n=recipe.train.holdout_n)
        for line, value in zip(lines, values, strict=True)
    ]
    return study.score.by, values[-1], tuple(along)


def _by_samples(by: str, scored: EvalResult) -> tuple[str, float]:
    if by == "recognised":
        assert scored.recognised is not None
        return _MISSED + scored.recognised.score, 1 - scored.recognised.samples.share
    return next(iter(scored.scores.items()))


def _shares(scored: Sequence[EvalResult]) -> tuple[float, ...]:
    return tuple(each.recognised.samples.share for each in scored if each.recognised is not None)


def curve(run: Path, score_name: str) -> tuple[CurvePoint, ...]:
    """The scores along the way."""
    lines = [line for line in read_log(RunFolder(run).log("scores")) if score_name in line]
    return tuple(CurvePoint(step=line["step"], score=line[score_name], n=line["n"]) for line in lines)


def _training_facts(run: Path, recipe: Recipe) -> TrainingFacts:
    losses = read_log(RunFolder(run).log("metrics"))
    tail = [line["loss"] for line in losses if line["step"] > 0.9 * recipe.train.steps] or [losses[-1]["loss"]]
    laps = read_log(RunFolder(run).log("speed"))
    starts = [0, *(lap["step"] for lap in laps)]
    seconds = sum(
        (lap["step"] - start) * recipe.train.batch_size / lap["images_per_second"]
        for start, lap in zip(starts, laps, strict=False)
    )
    held_out = read_log(RunFolder(run).log("holdout"))
    return TrainingFacts(
        loss=sum(tail) / len(tail),
        held_out_loss=held_out[-1]["loss_held_out"] if held_out else None,
        seconds=seconds,
        images_per_second=recipe.train.steps * recipe.train.batch_size / seconds,
        peak_memory=max(lap["peak_memory"] for lap in laps),
    )


def _environment(device: torch.device) -> dict[str, str]:
    return {
        "discli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
    }


@contextmanager
def _held(folder: Path, trial: Trial) -> Iterator[None]:
    with (folder / _LOCK).open("w") as lock:
        if not try_lock(lock):
            raise DiscliError(
                f"{trial.name} is being run by another process.",
                "Wait for it, or run another trial.",
                status=EXIT_INTERRUPTED,
            )
        yield
