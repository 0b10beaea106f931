"""Runs a record of recipes/records, and checks it against the rules there.

    python -m tests.bench.record NAME --data cifar10.h5 [--seeds 0 1 2] [--pause-after MINUTES] [--jobs 1]
    python -m tests.bench.record --table

NAME is a recipe in recipes/records, or the path of one, whose table [record] says ``minutes`` (the budget),
``changed`` and, but for the first of a budget, ``before``. Everything goes below --out. Stopped at any moment, the same
command goes on, and what it took before counts. At the end [record.result] is written into the recipe; --table writes
what all of them say into recipes/records/README.md. ``--rehearse N`` scores N samples, of any data, with any budget and
number of seeds, and is no record.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from discli.data.store import Store
from discli.evaluation.evaluate import evaluate
from discli.recipe import DataContract, Recipe, check_fits, load_recipe
from discli.recipe.differences import differences as differences_of
from discli.recipe.toml import to_toml
from discli.reports.chance import Estimate, differences, estimate, unpaired
from discli.reports.fit import fit_of, floor_of_run
from discli.runs.checkpoint import read_description
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runs.layout import STATE, RunFolder, ema_file
from discli.runs.status import run_status
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_model, to_json, write_text
from discli.runtime.launch import end_with_parent
from discli.runtime.signals import EXIT_INTERRUPTED
from discli.sampling.folder import write_samples
from discli.sampling.plan import plan_sampling
from tests.bench.judge import commit, processor

RECORDS = Path(__file__).parents[2] / "recipes" / "records"
MINUTES, SEEDS, N, CORES, FEATURES = (10, 40, 150), 3, 5_000, 2, "cifar10"
IMAGES, CLASSES, SIDE = 50_000, 10, 32  # of CIFAR-10
BEGIN, END = "<!-- records -->", "<!-- end of records -->"


class Result(BaseModel):
    """[record.result]: what was measured. Lists have an entry for every seed; minutes are of ``CORES`` cores."""

    model_config = ConfigDict(extra="forbid")

    date: str
    commit: str  # several, where a training went on with other code
    processor: str
    torch: str
    data_sha256: str
    rehearsal: bool = False
    score: str  # the distance's own name
    n: int
    nfe: int
    seeds: list[int]
    distance: list[float]
    recognised: list[float]
    minutes: list[float]  # from the start of discli train to the last step, the teacher's added
    sampling_minutes: list[float]
    images_per_second: list[float]
    loss_gap: list[float] | None = None  # where discli floor was run, and the recipe holds images out
    less: list[float] | None = None  # than the record before: mean, and its interval

    @property
    def helped(self) -> bool:
        """Whether it is less by more than chance; true of the first of its budget."""
        return self.less is None or self.less[1] > 0

    @property
    def scores(self) -> dict[int, float]:
        return dict(zip(self.seeds, self.distance, strict=True))


class Record(BaseModel):
    """[record] of a recipe."""

    model_config = ConfigDict(extra="forbid")

    minutes: float
    changed: str
    before: str | None = None
    teacher_minutes: float = 0.0  # of discli teacher, where the recipe aligns with it
    result: Result | None = None


class Times(BaseModel):
    """Of one seed, over all sessions, also killed ones."""

    training: float = 0.0
    sampling: float = 0.0
    commits: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/records"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(SEEDS)))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each on two cores of its own")
    parser.add_argument("--pause-after", type=float, help="minutes from now, after which the trainings stop, to go on")
    parser.add_argument("--rehearse", type=int, metavar="N")
    parser.add_argument("--table", action="store_true")
    flags = parser.parse_args()
    try:
        if flags.name:
            if flags.data is None:
                raise DiscliError("Which data?", "Give --data cifar10.h5.")
            with Stop(flags.pause_after) as stop:
                found = run(flags.name, flags.data, flags.out, flags.seeds, flags.jobs, stop, flags.rehearse)
            print(found.model_dump_json(indent=1))
        if flags.table:
            write_table(RECORDS)
    except DiscliError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        sys.exit(error.status)


def run(
    name: str, data: Path, out: Path, seeds: Sequence[int], jobs: int, stop: "Stop", rehearse: int | None
) -> Result:
    """Train, sample, score, compare; the result, which is then in the recipe's file. Raises DiscliError."""
    seeds = sorted(set(seeds))
    file = Path(name) if Path(name).is_file() else RECORDS / f"{name}.toml"
    record, recipe, store = read_record(file), load_recipe(file), Store(data)
    check_fits(recipe, store.contract, str(data))
    before = read_record(file.with_name(f"{record.before}.toml")) if record.before else None
    if broken := broken_rules(recipe, record, before, store.contract, len(seeds), rehearse is not None):
        raise DiscliError(f"{file} breaks a rule: {broken[0]}", "The rules are in recipes/records/README.md.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES * jobs:
        raise DiscliError(f"--jobs {jobs} needs {CORES * jobs} cores, and there are {len(cores)}.", "Fewer --jobs.")
    folder = out / recipe.name
    places = {seed: folder / f"seed-{seed}" for seed in seeds}
    budget = 60 * (record.minutes - record.teacher_minutes)
    with ThreadPoolExecutor(jobs) as pool:
        free = [cores[CORES * job : CORES * (job + 1)] for job in range(jobs)]

        def one(seed: int) -> None:
            mine = free.pop()
            try:
                train_in_time(file, data, places[seed], seed, budget, mine, stop)
            finally:
                free.append(mine)

        for done in [pool.submit(one, seed) for seed in seeds]:
            try:
                done.result()
            except DiscliError:
                stop.now = True  # and the others' checkpoints are written
                raise
    for place in places.values():
        check_trained(recipe, place)
    n = rehearse or N
    scores = [score(place, data, n) for place in places.values()]
    result = summary(recipe, record, before, seeds, list(places.values()), scores, rehearse is not None)
    write_result(file, result)
    return result


def broken_rules(
    recipe: Recipe, record: Record, before: Record | None, contract: DataContract, seeds: int, rehearsal: bool
) -> list[str]:
    """In words, each a sentence. A rehearsal need not be of CIFAR-10, nor have a record's budget and seeds."""
    found = []
    if not rehearsal:
        if record.minutes not in MINUTES:
            found.append(f"{record.minutes:g} minutes is none of the budgets {', '.join(map(str, MINUTES))}.")
        if seeds < SEEDS:
            found.append(f"{seeds} seeds, and not {SEEDS}.")
        if (contract.num_samples, contract.num_classes, contract.resolution.plain()) != (IMAGES, CLASSES, SIDE):
            found.append("the data are not CIFAR-10's 50,000 training images of 32 px, with their classes.")
    if before is not None and (before.minutes != record.minutes or before.result is None):
        found.append(f"{record.before} has another budget, or was not run.")
    elif before is not None and before.result is not None and before.result.rehearsal and not rehearsal:
        found.append(f"{record.before} was only rehearsed.")
    elif before is not None and before.result is not None and not rehearsal and before.result.processor != processor():
        found.append(
            f"{record.before} was run on {before.result.processor}, and minutes of {processor()} are others:"
            " run it here first."
        )
    if not contract.codec.is_pixels:
        found.append("an autoencoder has seen other images.")
    used = contract.as_used_by(recipe).grids
    for grid in used:
        if grid.accuracy is None:  # which a network that was trained on the file's labels has
            found.append(f"the features {grid.name} are of a network that has seen other images ({grid.network}).")
    if used and not record.teacher_minutes:
        found.append("record.teacher_minutes is missing: what discli teacher took is part of the budget.")
    return found


class Stop:
    """True once the trainings are to write a checkpoint and stop: after ``minutes``, or asked by a signal."""

    def __init__(self, minutes: float | None = None) -> None:
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self.now = False

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, *_: object) -> None:
        self.now = True

    def __bool__(self) -> bool:
        return self.now or (self._until is not None and time.monotonic() > self._until)


def train_in_time(
    recipe: Path, data: Path, place: Path, seed: int, budget: float, cores: Sequence[int], stop: Stop
) -> None:
    """Until the last step, in ``budget`` seconds of all sessions. Raises DiscliError where it was stopped, or too slow.

    Kernels are compiled anew for each seed: that is part of its time.
    """
    run = RunFolder(place / "run")
    last = ended(run, load_recipe(recipe).train.steps)
    times = read_times(place)
    if last is not None:
        return check_time(times, budget, place)
    if stop:
        raise DiscliError(f"{place}: not trained yet.", "Run the same command to go on.", status=EXIT_INTERRUPTED)
    place.mkdir(parents=True, exist_ok=True)
    caches = {key: str(place / "cache") for key in ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")}
    if commit() not in times.commits:
        times.commits.append(commit())
    command = ["train", str(recipe), "--data", str(data), "--out", str(run.path), "--set", f"train.seed={seed}"]

    def begin() -> None:
        os.sched_setaffinity(0, cores)
        end_with_parent()  # or it would go on, and nobody would count its minutes

    before, began = times.training, time.time()
    with (place / "train.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "discli", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **caches, "OMP_NUM_THREADS": str(len(cores))},
            start_new_session=True,  # Ctrl-C is for us to pass on
            preexec_fn=begin,
        )
        asked = False
        while process.poll() is None:
            times.training = before + time.time() - began
            write_text(place / "times.json", to_json(times))
            if not asked and (stop or times.training > budget):
                asked = True
                process.terminate()
            time.sleep(min(1.0, budget / 20))
    last = ended(run, load_recipe(recipe).train.steps)
    if last is not None:
        times.training = before + last - began
        write_text(place / "times.json", to_json(times))
        return check_time(times, budget, place)
    check_time(times, budget, place)
    # While it still imports, SIGTERM ends it at once.
    if process.returncode == EXIT_INTERRUPTED or (asked and process.returncode == -signal.SIGTERM):
        took = f"{times.training / 60:.1f} minutes so far"
        raise DiscliError(f"{place}: stopped, {took}.", "Run the same command to go on.", status=EXIT_INTERRUPTED)
    raise DiscliError(f"{place}: training failed.", f"See {place / 'train.log'}.", status=1)


def check_trained(recipe: Recipe, place: Path) -> None:
    """Raises DiscliError where what was trained there, and is scored, is not what the recipe says now."""
    trained = read_description(ema_file(RunFolder(place / "run").checkpoint(recipe.train.steps)))[0]
    changes = differences_of(trained.model_dump(mode="json"), recipe.model_dump(mode="json"))
    if changed := [f"{key} was {old}, is {new}" for key, old, new in changes if not key.startswith("train.seed")]:
        raise DiscliError(f"{place} was trained otherwise: {changed[0]}.", "Change the recipe back, or a new --out.")


def ended(run: RunFolder, steps: int) -> float | None:
    """When the last step's checkpoint was written; None where it was not."""
    state = run.checkpoint(steps) / STATE
    return state.stat().st_mtime if state.is_file() else None


def check_time(times: Times, budget: float, place: Path) -> None:
    if not times.training:
        raise DiscliError(f"{place}: nobody knows what its training took.", "Remove it, and run the record again.")
    if times.training > budget:
        took = f"{times.training / 60:.2f} minutes of {budget / 60:.2f}"
        raise DiscliError(f"{place}: over its budget, {took}.", "Fewer train.steps, in a new --out.", status=1)


def read_times(place: Path) -> Times:
    file = place / "times.json"
    return read_model(file, Times, f"Remove {place}.") if file.is_file() else Times()


def score(place: Path, data: Path, n: int) -> EvalResult:
    """Of ``n`` samples, as many of each class, with the recipe's settings and seed 0. What is there is kept."""
    file, samples, times = place / f"score-{n}.json", place / f"samples-{n}", read_times(place)
    if file.is_file():
        return read_eval_result(file)
    began = time.monotonic()
    try:
        write_samples(plan_sampling(place / "run", {}, classes="balanced", device="cpu"), n, samples)
    finally:
        times.sampling += time.monotonic() - began
        write_text(place / "times.json", to_json(times))
    found = evaluate(samples, data, features=FEATURES, metrics=("fid", "recognised"), bootstrap=0, device="cpu")
    if found.own_teacher:
        raise DiscliError(f"{place}: was taught the features that judge it.", "Align with another network.")
    write_text(file, to_json(found))
    return found


def summary(
    recipe: Recipe,
    record: Record,
    before: Record | None,
    seeds: Sequence[int],
    places: Sequence[Path],
    scores: Sequence[EvalResult],
    rehearsal: bool,
) -> Result:
    times = [read_times(place) for place in places]
    runs = [run_status(place / "run") for place in places]
    fits = [fit_of(run.logs["holdout"], floor_of_run(run)) for run in runs]
    gaps = [fit.loss_gap.gap for fit in fits if fit is not None and fit.loss_gap is not None]
    rates = [[line["images_per_second"] for line in run.logs["speed"]] for run in runs]
    distances = [found.distance for found in scores if found.distance is not None]
    theirs = before.result if before else None
    less = None
    if theirs is not None:
        found = less_than(theirs.scores, dict(zip(seeds, distances, strict=True)))
        less = (
            [found.mean, found.low, found.high] if found and found.low is not None and found.high is not None else None
        )
        if less is None:
            raise DiscliError("One seed tells nothing from chance.", "Two --seeds or more, here and in the one before.")
    return Result(
        date=date.today().isoformat(),
        commit=", ".join(dict.fromkeys(one for each in times for one in each.commits)),
        processor=processor(),
        torch=torch.__version__,
        data_sha256=scores[0].reference.sha256 or "",
        rehearsal=rehearsal,
        score=next(name for name, value in scores[0].scores.items() if value == scores[0].distance),
        n=scores[0].samples.n,
        nfe=scores[0].samples.nfe or 0,
        seeds=list(seeds),
        distance=distances,
        recognised=[found.recognised.samples.share for found in scores if found.recognised],
        minutes=[round(each.training / 60 + record.teacher_minutes, 3) for each in times],
        sampling_minutes=[round(each.sampling / 60, 3) for each in times],
        images_per_second=[round(statistics.median(each), 1) for each in rates],
        loss_gap=gaps if len(gaps) == len(runs) else None,
        less=less,
    )


def less_than(before: Mapping[int, float], now: Mapping[int, float]) -> Estimate | None:
    """before - now, as ``discli ablate`` and ``discli compare`` tell: paired by seed, else Welch's."""
    paired = differences(before, now)
    return estimate(paired) if len(paired) >= 2 else unpaired(list(before.values()), list(now.values()))


def read_record(file: Path) -> Record:
    """[record] of a recipe. Raises DiscliError where there is none, or it is not one."""
    if not file.is_file():
        raise DiscliError(f"No record at {file}.", f"Those that there are: {', '.join(sorted(shipped(RECORDS)))}.")
    try:
        return Record.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))["record"])
    except (KeyError, ValueError) as error:
        raise DiscliError(f"{file}: [record]: {' '.join(str(error).split())}", "It has minutes and changed.") from None


def shipped(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def write_result(file: Path, result: Result) -> None:
    """As the last table of the recipe, in place of an earlier one."""
    above = file.read_text(encoding="utf-8").partition("\n[record.result]")[0].rstrip()
    write_text(file, f"{above}\n{to_toml({'record.result': result.model_dump()})}")


def write_table(folder: Path) -> None:
    """Between the markers in its README.md."""
    page = folder / "README.md"
    head, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise DiscliError(f"{page} has no place for the table.", f"Write {BEGIN} and {END} into it.")
    records = {name: read_record(file) for name, file in shipped(folder).items()}
    write_text(page, f"{head}{BEGIN}\n{table(records)}\n{END}{tail}")


def table(records: Mapping[str, Record]) -> str:
    """Of those that were run, by budget and date. Markdown."""
    rows = [
        "| minutes | record | what changed | distance | less than before | recognised | images/s | loss gap | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ran = [(name, record, record.result) for name, record in records.items() if record.result is not None]
    for name, record, result in sorted(ran, key=lambda row: (row[1].minutes, row[2].date, row[0])):
        if result.rehearsal:
            continue
        less = "-"
        if result.less is not None:
            mean, low, high = result.less
            chance = "" if result.helped else "; may be chance, no record"
            less = f"{mean:.3g} ({low:.3g} to {high:.3g}{chance})"
        cells = [
            f"{record.minutes:g}",
            f"[{name}]({name}.toml)",
            record.changed,
            str(estimate(result.distance)),
            less,
            f"{statistics.mean(result.recognised):.1%}",
            f"{statistics.mean(result.images_per_second):.0f}",
            "-" if result.loss_gap is None else str(estimate(result.loss_gap)),
            f"{result.date}, {result.commit}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if len(rows) > 2 else "None has been run yet."


if __name__ == "__main__":
    main()
