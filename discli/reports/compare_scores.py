"""Two scores that differ, explained in words from what stands beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discli.reports.score_table import describe_ema
from discli.runs.score_file import read_score
from discli.runtime.numbers import format_number

Result = dict[str, Any]


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


def compare_files(first: Path, second: Path) -> Comparison:
    """``discli eval-fid --compare a.json b.json``."""
    return compare_scores(read_score(first), read_score(second), first.name, second.name)


def compare_scores(a: Result, b: Result, name_a: str = "A", name_b: str = "B") -> Comparison:
    """Both distances and every difference that can move them; ``a`` and ``b`` are results of eval-fid."""
    forbids = _not_comparable(a, b)
    explains = _sample_sizes(a, b) + _scoring(a, b) + _sampling(a, b)
    verdict = [] if forbids else _verdict(a, b, explains)
    return Comparison([f"{name_a}: {_distance(a)}", f"{name_b}: {_distance(b)}"], forbids, explains, verdict)


def _not_comparable(a: Result, b: Result) -> list[str]:
    found, names = [], _conventions(a, b)
    if a["features"] != b["features"]:
        found.append(
            f"features: {a['features']} and {b['features']}; distances in different spaces have no common scale."
        )
    elif a["weights_sha256"] != b["weights_sha256"]:
        found.append(
            f"weights of the feature network: sha256 {a['weights_sha256'][:12]} and {b['weights_sha256'][:12]}."
        )
    elif names[0] != names[1] and "clean-fid" in names:
        found.append(f"convention: {names[0]} and {names[1]} resize differently, which moves FID itself.")
    ours, theirs = a["reference"], b["reference"]
    if ours["sha256"] != theirs["sha256"]:
        counts = " and ".join(
            f"{r['path']} ({'unknown n' if r['n'] is None else format(r['n'], ',')})" for r in (ours, theirs)
        )
        found.append(
            f"reference: {counts} have different sha256, so other images, or the same in another kind of file."
        )
    if a["samples"]["resolution"] != b["samples"]["resolution"]:
        sizes = [r["samples"]["resolution"][0] for r in (a, b)]
        found.append(f"resolution: {sizes[0]} px and {sizes[1]} px.")
    return found


def _sample_sizes(a: Result, b: Result) -> list[str]:
    n_a, n_b = a["samples"]["n"], b["samples"]["n"]
    if n_a == n_b:
        return []
    line = f"n: {n_a:,} and {n_b:,} samples; fewer samples score higher, by about c/n (arXiv:1911.07023)."
    if a["effect_of_n"] and b["effect_of_n"]:
        line += (
            f" Extrapolated to infinitely many: {format_number(a['effect_of_n']['infinity'], 5)} and"
            f" {format_number(b['effect_of_n']['infinity'], 5)}."
        )
    return [line]


def _conventions(a: Result, b: Result) -> list[str]:
    return [result["convention"]["name"] if result["convention"] else "none" for result in (a, b)]


def _scoring(a: Result, b: Result) -> list[str]:
    names = _conventions(a, b)
    if set(names) == {"torch-fidelity", "adm"}:
        return ["convention: torch-fidelity and adm split the Inception Score differently; their FID is the same."]
    return []


def _sampling(a: Result, b: Result) -> list[str]:
    ours, theirs = a["samples"], b["samples"]
    words = {
        "sampler": "sampler",
        "steps": "sampling steps",
        "nfe": "network calls per image",
        "cfg_scale": "guidance",
        "guided_channels": "guided channels",
        "clip_denoised": "clipping of x0",
        "ema": "EMA",
        "precision": "precision",
        "seed": "seed (the same model's scores differ between seeds by about their intervals)",
        "step": "training step",
        "run": "run",
    }
    found = []
    for key, what in words.items():
        if key in ours and key in theirs and ours[key] != theirs[key]:
            found.append(f"{what}: {_words(key, ours[key])} and {_words(key, theirs[key])}.")
    silent = [r["samples"]["path"] for r in (a, b) if "sampler" not in r["samples"]]
    if silent:
        found.append(f"sampling: nothing is known of {' and '.join(silent)} (no manifest of discli sample).")
    if ours["kind"] != theirs["kind"]:
        found.append(f"kind of samples: {ours['kind']} and {theirs['kind']}.")
    return found


def _verdict(a: Result, b: Result, explains: list[str]) -> list[str]:
    effects = a["effect_of_n"], b["effect_of_n"]
    if a["distance"] is None or b["distance"] is None:
        return []
    if a["distance"] == b["distance"] and not explains:
        return ["The scores are equal, and nothing that is known differs."]
    if None in effects:
        return ["Without intervals (--bootstrap) there is no telling whether the difference is more than chance."]
    overlap = effects[0]["low"] <= effects[1]["high"] and effects[1]["low"] <= effects[0]["high"]
    if overlap:
        return ["Their intervals overlap: the difference may be chance."]
    return ["Their intervals do not overlap: the difference is more than sampling noise."]


def _distance(result: Result) -> str:
    if result["distance"] is None:
        return "no Frechet distance"
    name = next(name for name, value in result["scores"].items() if value == result["distance"])
    effect = result["effect_of_n"]
    interval = (
        f", {effect['level']:.0%} interval {format_number(effect['low'], 5)} to {format_number(effect['high'], 5)}"
        if effect
        else ""
    )
    return f"{name} = {format_number(result['distance'], 5)} at n = {result['samples']['n']:,}{interval}"


def _words(key: str, value: Any) -> str:
    if key == "ema":
        return describe_ema(value)
    if key == "sampler":
        return ", ".join(str(part) if name == "name" else f"{name} {part}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
