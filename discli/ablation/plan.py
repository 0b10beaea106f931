"""What a study will take, before it is run: every trial with its size, work, disk and time."""

import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from discli.ablation.power import StudyPower, check_power, plan_power
from discli.ablation.trial import costs, drawn_with, failure_of, plan_recipe, read_result
from discli.ablation.trial_result import Costs, TrialResult
from discli.cost.disk import averages_kept, disk_needed
from discli.data.find import data_for_study
from discli.diffusion import count_evaluations
from discli.recipe import Recipe, Study, Trial, load_study
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec
from discli.runtime.console import format_bytes, stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.sampling.settings import settle_settings
from discli.training.timed_step import try_step

# One image that takes more work than this would itself be a wait.
_MOST_TRIAL_FLOPS = 5e10


@dataclass(frozen=True)
class Planned:
    """A trial, where it lies, and what it takes."""

    trial: Trial
    recipe: Recipe
    folder: Path
    costs: Costs
    result: TrialResult | None  # when it is finished
    draws: tuple[tuple[SampleSpec, int], ...]  # how many samples, along the way, to tune by and at the end
    averages: int = 0  # that are rebuilt, to choose among
    failure: str | None = None  # of the last try

    @property
    def training_flops(self) -> float:
        return 1e12 * self.costs.training_tflops

    @cached_property
    def sampling_flops(self) -> float:
        calls = sum(n * self._evaluations(settings) for settings, n in self.draws)
        return 1e9 * self.costs.forward_gflops * calls

    def _evaluations(self, settings: SampleSpec) -> int:
        return _evaluations(self.recipe.diffusion, settings, self.recipe.in_channels)

    @property
    def flops(self) -> float:
        """From noise to score."""
        return self.training_flops + self.sampling_flops

    @property
    def disk(self) -> int:
        """Bytes, of checkpoints mostly."""
        spec = self.recipe.train
        rebuilt = 4 * self.costs.parameters * self.averages
        count = self.costs.parameters  # of what train.freeze leaves, it is less
        return disk_needed(spec, count, averages_kept(spec.ema), count)[1] + rebuilt


def make_plan(study: Study, trials: Sequence[Trial], out: Path) -> list[Planned]:
    """Raises DiscliError when a trial's recipe is not valid, or its folder holds the result of another study."""
    plan = []
    for trial in trials:
        recipe, folder = plan_recipe(study, trial), out / "trials" / trial.name
        result = read_result(study, trial, recipe, folder)
        averages = len(study.score.tune.ema) if study.score.tune is not None else 0
        plan.append(Planned(trial, recipe, folder, costs(recipe), result, tuple(_draws(study, recipe)), averages))
    return plan


def _draws(study: Study, recipe: Recipe) -> Iterator[tuple[SampleSpec, int]]:
    own, score, tune = recipe.sample, recipe.train.score, study.score.tune
    if score.every:
        yield own, -(-recipe.train.steps // score.every) * score.n
    final = own
    if tune is not None:
        tried = [settle_settings(recipe, drawn_with(scale)) for scale, _ in tune.settings]
        yield from ((each, tune.n or study.score.n) for each in tried)
        # Which it will be is not known: one with guidance, if there is any.
        final = max(tried, key=lambda each: each.cfg_scale != 1.0)
    yield final, study.score.n * study.samplings


def refresh(study: Study, plan: Sequence[Planned]) -> list[Planned]:
    """The plan with the results and failures that lie in the folders now, other processes' included.

    A finished trial is not read a second time. A result that does not belong here is its trial's failure.
    """
    return [_refresh(study, planned) for planned in plan]


def _refresh(study: Study, planned: Planned) -> Planned:
    if planned.result is not None:
        return planned
    try:
        result = read_result(study, planned.trial, planned.recipe, planned.folder)
    except DiscliError as error:  # the study was edited while it ran
        return replace(planned, failure=str(error))
    return replace(planned, result=result, failure=None if result is not None else failure_of(planned.folder))


class TrialPlan(BaseModel):
    """What one trial takes."""

    trial: str
    parameters: int
    forward_gflops: float
    steps: int
    training_tflops: float
    disk: int  # bytes
    seconds: float | None  # from noise to score; None: finished, or not known
    finished: bool


class StudyPlan(BaseModel):
    """What ``discli ablate --dry-run --json`` prints: every trial, at the speed ``flops_per_second`` of ``rate``."""

    format: Literal[1] = 1
    study: str
    budget: str
    samples: int  # of the score at the end
    tuning: int  # samples that choose guidance and average before
    flops_per_second: float | None
    rate: str  # where that figure is from
    disk: int  # bytes, of the trials to run
    power: StudyPower
    trials: list[TrialPlan]


def plan_study(
    study: str | Path, *, data: str | Path | None = None, out: str | Path | None = None, trial: str | None = None
) -> StudyPlan:
    """What there is to do, without doing it; arguments as of `discli.ablation.study.ablate`. Writes nothing.

    Raises DiscliError for what `make_plan` and `discli.recipe.load_study` raise it for, and for ``data`` that does not
    fit the trials to run.
    """
    loaded, trials = load_study(study)
    check_power(loaded)
    chosen = trials if trial is None else [find_trial(trials, trial)]
    plan = make_plan(loaded, chosen, study_folder(loaded, out))
    if data is not None:
        data_for_study([planned.recipe for planned in plan if planned.result is None], data)
    return describe_plan(loaded, plan)


def describe_plan(study: Study, plan: Sequence[Planned]) -> StudyPlan:
    rate, source = find_rate(plan)
    tune = study.score.tune
    return StudyPlan(
        study=study.name,
        budget=study.budget.describe(),
        samples=study.score.n * study.samplings,
        tuning=len(tune.settings) * (tune.n or study.score.n) if tune is not None else 0,
        flops_per_second=rate,
        rate=source,
        disk=disk_to_fill(plan),
        power=plan_power(study),
        trials=[
            TrialPlan(
                trial=p.trial.name,
                **p.costs.model_dump(exclude={"images"}),
                disk=p.disk,
                seconds=p.flops / rate if rate and p.result is None else None,
                finished=p.result is not None,
            )
            for p in plan
        ],
    )


def study_folder(study: Study, out: str | Path | None) -> Path:
    """``out``, by default ``runs/ablate-<name>``."""
    return Path("runs") / f"ablate-{study.name}" if out is None else Path(out)


def find_trial(trials: Sequence[Trial], wanted: str) -> Trial:
    """By its number, from 0, as a Slurm array counts, or by its name."""
    for number, trial in enumerate(trials):
        if wanted in (str(number), trial.name):
            return trial
    raise DiscliError(
        f"--trial {wanted}: no such trial.",
        f"Give a number from 0 to {len(trials) - 1}, or a name such as {trials[0].name}; --dry-run lists them.",
    )


def disk_to_fill(plan: Sequence[Planned]) -> int:
    """Bytes, of the trials to run."""
    return sum(planned.disk for planned in plan if planned.result is None)


def say_disk(need: int, out: Path) -> None:
    """One line on the bytes that the trials to run will fill, yellow where there are not as many."""
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    line = f"Disk: {format_bytes(need)} for the trials to run, {format_bytes(free)} free in {existing}/"
    if need < free:
        stderr.print(line)
    else:
        stderr.print(f"{line}: not enough for the whole study.", style="yellow")


def find_rate(plan: Sequence[Planned]) -> tuple[float | None, str]:
    """FLOP/s to expect, and where the figure is from: finished trials, else a trial of the cheapest trial."""
    rates = [1e12 * p.result.training_tflops / p.result.seconds for p in plan if p.result is not None]
    if rates:
        return statistics.median(rates), "at the speed of the finished trials' training"
    cheapest = min(plan, key=lambda planned: planned.costs.forward_gflops)
    device = pick_device(None)
    if device.type == "cpu" and 3e9 * cheapest.costs.forward_gflops > _MOST_TRIAL_FLOPS:
        return None, "even a trial step of the cheapest trial would take long here"
    spec = cheapest.recipe.train
    seconds = spec.steps * try_step(cheapest.recipe, device).per_step(spec.batch_size)
    return cheapest.training_flops / seconds, f"from steps of {cheapest.trial.name} on this machine, scaled by FLOPs"


@cache  # counted by going through all sampling steps, which most trials share
def _evaluations(diffusion: DiffusionSpec, settings: SampleSpec, channels: int) -> int:
    return count_evaluations(diffusion, settings, channels)
