"""Two scores that differ, explained in words from what stands beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discli.recipe.size import Size
from discli.reports.score_table import describe_ema
from discli.runs.eval_result import EvalResult, Named, read_eval_result
from discli.runs.manifest import NOISE
from discli.runtime.numbers import format_number

# What samples may differ in, by its name in a score.
SAMPLED = {
    "sampler": "sampler",
    "steps": "sampling steps",
    "timestep_spacing": "spacing of timesteps",
    "time_shift": "shift of times",
    "nfe": "network calls per image",
    "cfg_scale": "guidance",
    "guidance": "kind of guidance",
    "cfg_schedule": "guidance over the steps",
    "cfg_interval": "noise levels that are guided",
    "contrastive_correction": "correction of contrastive training",
    "guided_channels": "guided channels",
    "clip_denoised": "clipping of x0",
    "ema": "EMA",
    "precision": "precision",
    "class_choice": "choice of classes",
    "seed": "seed (the same model's scores differ between seeds by about their intervals)",
    "train_seed": "seed of the training",
    "step": "training step",
    "run": "run",
    "model_sha256": "weights",
}


@dataclass(frozen=True)
class Comparison:
    """Sentences: each score; what forbids comparing them, what else can move them, and what follows."""

    scores: list[str]
    forbids: list[str]
    explains: list[str]
    verdict: list[str]

    def lines(self) -> list[str]:
        """For people, what forbids comparing first."""
        lines = list(self.scores)
        if self.forbids:
            lines += ["They cannot be compared:", *(f"- {line}" for line in self.forbids)]
        if self.explains:
            lines.append("Also different:" if self.forbids else "They can be compared. What differs:")
            lines += [f"- {line}" for line in self.explains]
        return lines + self.verdict


def compare_files(first: str | Path, second: str | Path) -> Comparison:
    """Of two files of ``discli eval-fid --json``. Raises DiscliError for anything else."""
    return compare_scores(read_eval_result(first), read_eval_result(second), Path(first).name, Path(second).name)


def compare_scores(a: EvalResult, b: EvalResult, name_a: str = "A", name_b: str = "B") -> Comparison:
    """Both distances and every difference that can move them."""
    forbids = not_comparable(a, b)
    explains = _sample_sizes(a, b) + _scoring(a, b) + _sampling(a, b)
    verdict = [] if forbids else _verdict(a, b, explains)
    return Comparison([f"{name_a}: {_distance(a)}", f"{name_b}: {_distance(b)}"], forbids, explains, verdict)


def not_comparable(a: EvalResult, b: EvalResult) -> list[str]:
    """What forbids comparing two scores, a sentence each."""
    found, names = [], _conventions(a, b)
    if a.features != b.features:
        found.append(f"features: {a.features} and {b.features}; distances in different spaces have no common scale.")
    elif a.weights_sha256 != b.weights_sha256:
        found.append(f"weights of the feature network: sha256 {a.weights_sha256[:12]} and {b.weights_sha256[:12]}.")
    elif a.precision != b.precision:
        found.append(f"precision of the feature network: {a.precision} and {b.precision}, which moves the distance.")
    elif names[0] != names[1] and "clean-fid" in names:
        found.append(f"convention: {names[0]} and {names[1]} resize differently, which moves FID itself.")
    for result, which in ((a, "first"), (b, "second")):
        if result.own_teacher:
            found.append(f"the {which} model was trained to have the features of {result.features}: they flatter it.")
    if a.reference.sha256 != b.reference.sha256:
        counts = " and ".join(
            f"{r.path} ({'unknown n' if r.n is None else format(r.n, ',')})" for r in (a.reference, b.reference)
        )
        found.append(
            f"reference: {counts} have different sha256, so other images, or the same in another kind of file."
        )
    for result, which in ((a, "first"), (b, "second")):
        if (begins := result.samples.begins_with) not in (None, NOISE):
            found.append(f"the {which} samples begin with {begins}, not with {NOISE}.")
    if a.samples.resolution != b.samples.resolution:
        found.append(f"resolution: {Size(*a.samples.resolution)} px and {Size(*b.samples.resolution)} px.")
    return found


def _sample_sizes(a: EvalResult, b: EvalResult) -> list[str]:
    n_a, n_b = a.samples.n, b.samples.n
    if n_a == n_b:
        return []
    line = f"n: {n_a:,} and {n_b:,} samples; fewer samples score higher, by about c/n (arXiv:1911.07023)."
    if a.fid_infinity and b.fid_infinity:
        line += (
            f" Extrapolated to infinitely many: {format_number(a.fid_infinity.infinity, 5)} and"
            f" {format_number(b.fid_infinity.infinity, 5)}."
        )
    return [line]


def _conventions(a: EvalResult, b: EvalResult) -> list[str]:
    return [result.convention.name if result.convention else "none" for result in (a, b)]


def _scoring(a: EvalResult, b: EvalResult) -> list[str]:
    if set(_conventions(a, b)) == {"torch-fidelity", "adm"}:
        return ["convention: torch-fidelity and adm split the Inception Score differently; their FID is the same."]
    return []


def _sampling(a: EvalResult, b: EvalResult) -> list[str]:
    found = []
    for key, what in SAMPLED.items():
        if key == "model_sha256" and (a.samples.run, a.samples.step) != (b.samples.run, b.samples.step):
            continue  # of course
        one, other = getattr(a.samples, key), getattr(b.samples, key)
        if one is not None and other is not None and one != other:
            found.append(f"{what}: {in_words(key, one)} and {in_words(key, other)}.")
    silent = [result.samples.path for result in (a, b) if result.samples.sampler is None]
    if silent:
        found.append(f"sampling: nothing is known of {' and '.join(silent)} (no manifest of discli sample).")
    if a.samples.kind != b.samples.kind:
        found.append(f"kind of samples: {a.samples.kind} and {b.samples.kind}.")
    return found


def _verdict(a: EvalResult, b: EvalResult, explains: list[str]) -> list[str]:
    if a.distance is None or b.distance is None:
        return []
    if a.distance == b.distance and not explains:
        return ["The scores are equal, and nothing that is known differs."]
    if a.samples.n != b.samples.n:  # intervals know nothing of what n itself does
        return ["Their numbers of samples differ: which is better cannot be told before as many are scored of both."]
    one, other = a.fid_infinity, b.fid_infinity
    if one is None or other is None:
        return ["Without intervals (--bootstrap) there is no telling whether the difference is more than chance."]
    if one.low <= other.high and other.low <= one.high:
        return ["Their intervals overlap: the difference may be chance."]
    return ["Their intervals do not overlap: the difference is more than sampling noise."]


def _distance(result: EvalResult) -> str:
    if result.distance is None:
        return "no Frechet distance"
    name = next(name for name, value in result.scores.items() if value == result.distance)
    found = result.fid_infinity
    interval = (
        f", {found.level:.0%} interval {format_number(found.low, 5)} to {format_number(found.high, 5)}" if found else ""
    )
    return f"{name} = {format_number(result.distance, 5)} at n = {result.samples.n:,}{interval}"


def in_words(key: str, value: Any) -> str:
    """One of `SAMPLED`'s values."""
    if key == "ema":
        return describe_ema(value)
    if key == "model_sha256":
        return f"sha256 {value[:12]}"
    if isinstance(value, Named):
        return ", ".join([value.name, *(f"{name} {part}" for name, part in value.settings.items())])
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
