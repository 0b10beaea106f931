"""A score and its circumstances, as rows of text."""

from collections.abc import Iterator, Sequence

from discli.runs.eval_result import ClassScore, EvalResult, Named, Samples, Share
from discli.runs.manifest import NOISE
from discli.runtime.numbers import format_number


def score_rows(result: EvalResult) -> Iterator[tuple[str, str]]:
    """(name, value) of every score, the effect of n right after the distance it belongs to."""
    scores, interval = result.scores, result.fid_infinity
    for name, value in scores.items():
        if name.endswith(" std"):
            continue
        spread = f" ± {scores[f'{name} std']:.2g}" if f"{name} std" in scores else ""
        yield name, f"{format_number(value, 5)}{spread}"
        if interval is not None and value == result.distance:
            yield (
                f"  {interval.level:.0%} interval at n = {interval.n:,}",
                f"{format_number(interval.low, 5)} to {format_number(interval.high, 5)}",
            )
            yield "  extrapolated to infinite n", format_number(interval.infinity, 5)
        if (seen := result.recognised) is not None and name == seen.score:
            yield "  as the class asked for", format_share(seen.samples)
            yield "  of held-out real images", format_share(seen.held_out)


def fact_rows(result: EvalResult) -> Iterator[tuple[str, str]]:
    """(name, value) of everything the scores depend on."""
    samples, reference = result.samples, result.reference
    yield "samples", f"{samples.path} ({samples.kind}, n = {samples.n:,}, {_size(samples.resolution)})"
    if samples.sampler is not None:
        settings = "".join(f", {key} {value}" for key, value in samples.sampler.settings.items())
        yield (
            "sampling",
            f"{samples.sampler.name}{settings}, {samples.steps} steps, NFE {samples.nfe},"
            f" guidance {samples.cfg_scale}, EMA {describe_ema(samples.ema)},"
            f" {samples.precision}, seed {samples.seed}"
            + "".join(f", {said}" for said in _unusual(samples))
            + (f" (trained with seed {samples.train_seed})" if samples.train_seed is not None else ""),
        )
        yield "checkpoint", f"{samples.checkpoint} (step {samples.step or 0:,})"
    else:
        yield "sampling", "unknown: no manifest of discli sample beside these images"
    count = "n unknown" if reference.n is None else f"n = {reference.n:,}"
    size = f", {_size(reference.resolution)}" if reference.resolution else ""
    yield "reference", f"{reference.path} ({reference.kind}, {count}{size})"
    if reference.sha256:
        yield "reference sha256", reference.sha256
    if (convention := result.convention) is not None:
        yield "convention", convention.name
        words = {"resize": "resize", "quantisation": "quantisation", "inception_score": "Inception Score"}
        yield from ((word, said) for key, word in words.items() if (said := getattr(convention, key)) is not None)
    yield "features", f"{result.features}: {result.network}"
    yield "weights sha256", result.weights_sha256


def _unusual(samples: Samples) -> Iterator[str]:
    """Of how they were made, what most are not."""
    if samples.guidance is not None and samples.guidance.name != "classifier-free":
        yield " ".join([samples.guidance.name, *map(str, samples.guidance.settings.values())])
    if samples.cfg_schedule is not None and samples.cfg_schedule.name != "constant":
        yield f"{samples.cfg_schedule.name} guidance"
    if samples.cfg_interval not in (None, "everywhere"):
        yield f"guided at noise levels {samples.cfg_interval}"
    if samples.begins_with not in (None, NOISE):
        yield f"beginning with {samples.begins_with}"


def class_rows(classes: Sequence[ClassScore], most: int | None = None) -> Iterator[tuple[str, str]]:
    """Each class's distance, the worst first."""
    worst_first = sorted(classes, key=lambda row: -row.distance)
    for row in worst_first[:most]:
        yield row.name, f"{format_number(row.distance)} ({row.n:,} samples, {row.n_reference:,} reference)"
    if most is not None and len(classes) > most:
        yield "...", f"{len(classes) - most:,} more: --json or --card has them all"


def format_share(share: Share) -> str:
    """A share in % with its 95% interval."""
    if share.n == 0:
        return "none"
    return f"{share.share:.1%} of {share.n:,} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def describe_ema(ema: Named | None) -> str:
    """The averaging length, in a few words."""
    if ema is None:
        return "unknown"
    return ", ".join(f"{key} {value}" for key, value in ema.settings.items() if key in ("decay", "stds")) or ema.name


def _size(resolution: tuple[int, int]) -> str:
    return f"{resolution[0]}x{resolution[1]} px"
