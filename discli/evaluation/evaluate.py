"""Samples and reference -> features -> statistics -> scores, with everything that they depend on.

Reads top to bottom: what is scored, what it is compared with, one pass over each, the numbers.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from discli import __version__
from discli.evaluation.card_images import CardImages
from discli.evaluation.classes import ReferenceProbe, asked_for, class_names, have_classes, numbered
from discli.evaluation.extractor import Extractor, Precision, find_network, load_extractor
from discli.evaluation.fid_infinity import SMALLEST_N
from discli.evaluation.frechet import frechet_distance
from discli.evaluation.images import ImageSet, choose, open_images
from discli.evaluation.metric import (
    Accumulator,
    FeatureBuffer,
    Metric,
    MetricSetup,
    ReferenceStats,
    choose_metrics,
    named_scores,
)
from discli.evaluation.moments import Gaussian, PerClassMoments
from discli.evaluation.npz import ReferenceStatistics
from discli.evaluation.reference import (
    Reference,
    Scanner,
    check_possible,
    check_resolution,
    check_statistics,
    make_folder_of,
    make_reference_file,
    open_reference,
    reference_statistics,
    trained_on,
)
from discli.evaluation.sampled import is_run
from discli.runs.eval_result import ClassScore, EvalResult, Recognition, ReferenceFacts, Samples
from discli.runs.layout import find_run
from discli.runtime.console import format_bytes, stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.files import sha256_of
from discli.runtime.process_group import process_group

_REFERENCE_KEPT = 50_000  # images, for metrics that need them all at once


def evaluate(
    samples: str | Path | ImageSet,
    ref: str | Path | None = None,
    *,
    features: str = "inception",
    weights: str | Path | None = None,
    convention: str | None = None,
    metrics: Sequence[str] = ("fid",),
    n: int | None = None,
    per_class: bool = False,
    bootstrap: int = 50,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: str | None = None,
    cache: bool = True,
    card: CardImages | None = None,
) -> EvalResult:
    """Score ``samples``: a run, a folder of ``discli sample``, any folder, zip or tar of images, a .npz or .h5,
    or a set of images that is open, such as a run's `SampledImages` with other settings than its recipe's.

    ``ref``: FILE.h5, a folder, a zip, or STATS.npz; without it the data that the run was trained on.
    ``features`` and ``metrics`` are names of files in ``features/`` and ``metrics/``; ``metrics`` may hold "all".
    ``bootstrap`` resamples for the interval of the distance (0: neither interval nor FID-infinity). ``card`` takes
    in the images for a score card. ``precision``: of the feature network; "bf16" moves the score. Under
    torchrun the processes share the work, and all get the result.

    Raises DiscliError for what is missing or does not fit, before any work where it can be known.
    """
    started = time.monotonic()
    opened = None if isinstance(samples, str | Path) else samples
    samples = Path(samples) if isinstance(samples, str | Path) else samples.path
    wanted = choose_metrics(metrics, find_network(features))
    with process_group() as group:
        where = pick_device(device)
        samples = samples if samples.exists() else find_run(samples)
        with_labels = per_class or any(metric.needs == "classes" for metric in wanted)
        images = opened or open_images(samples, where, with_labels)
        indices = choose(images, n)
        reference = open_reference(Path(ref or trained_on(samples, images.manifest)), where, with_labels)
        if "all" in metrics and not have_classes(images, reference.images):
            wanted = [metric for metric in wanted if metric.needs != "classes" or metric.name in metrics]
        size = images.size
        if size is None:
            raise DiscliError(f"{samples} holds images of several sizes.", "Score samples of one size.")
        check_resolution(reference, size)
        extractor = load_extractor(features, weights, convention, where, precision)
        if images.manifest is not None:
            made = images.manifest
            extractor.own_teacher = made.contract.is_teacher(made.recipe, extractor.weights_sha256)
        scanner = Scanner(extractor, batch_size, group)
        check_statistics(reference, extractor)
        check_possible(wanted, len(indices), images, reference, per_class)

        known = None
        if any(metric.needs == "classes" for metric in wanted) and reference.images is not None:
            asked, names = asked_for(images, indices, reference.images), class_names(reference.images)
            known = ReferenceProbe(reference.images, extractor, group, cache)
        setup = MetricSetup(len(indices), extractor, bootstrap, asked if known else None)
        scores = [metric(setup) for metric in wanted]
        theirs, dim = reference.images, extractor.dims["features"]
        classes, other_classes = None, None
        if per_class:
            assert theirs is not None
            assert theirs.labels is not None
            classes = PerClassMoments(numbered(images, indices, theirs), dim)
            other_classes = PerClassMoments(theirs.labels, dim)
        passing = card.passing(len(indices)) if card is not None else None
        examples = card.passing_examples(len(indices), size) if card is not None and known else None
        kept = _reference_rows(scores, reference, len(indices), extractor)
        scanner.scan(images, indices, _present(*scores, classes, passing, examples), "samples")
        if card is not None and passing is not None:
            card.samples = group.once(lambda: passing.rows().to(torch.uint8))

        nearest = card.neighbours(extractor) if theirs and card is not None else None
        more = _present(*kept.values(), other_classes, nearest, known.fit if known else None)
        statistics, cached = reference_statistics(reference, scanner, more, cache)
        if card is not None and nearest is not None and theirs and group.is_main:
            card.show(nearest, theirs)

        used = extractor.convention
        convention_facts = used.facts(any(m.feature == "logits" for m in wanted)) if used else None
        probe = known.probe() if known else None
        compared, gaussian = ReferenceStats(statistics.gaussians, kept, probe), statistics.gaussians["features"]
        found = group.once(lambda: [named_scores(metric, extractor, compared) for metric in scores])
        distance = next((next(iter(found[i].values())) for i, m in enumerate(scores) if m.is_distance), None)
        interval = group.once(lambda: next((m.interval(compared) for m in scores if m.is_distance), None))
        recognised = group.once(lambda: _recognition(scores, compared, extractor, names)) if known else None
        if card is not None and examples is not None and group.is_main:
            for metric in scores:
                card.show_examples(metric.examples(compared, card.among), names, examples)
        by_class = group.once(lambda: _class_scores(classes, other_classes, theirs))
        return EvalResult(
            discli_version=__version__,
            features=extractor.name,
            distance=distance,
            scores={name: value for each in found for name, value in each.items()},
            effect_of_n=interval,
            per_class=by_class,
            recognised=recognised,
            convention=convention_facts,
            network=extractor.network,
            precision=extractor.precision,
            weights_sha256=extractor.weights_sha256,
            own_teacher=extractor.own_teacher,
            samples=_sample_facts(samples, images, len(indices)),
            reference=_reference_facts(reference, statistics, kept, cached),
            warnings=_warnings(len(indices), gaussian, SMALLEST_N if bootstrap else 0, by_class or ())
            if distance is not None or by_class
            else (),
            torch_version=torch.__version__,
            device=str(where),
            processes=group.count,
            seconds=round(time.monotonic() - started, 1),
        )


def make_ref(
    source: str | Path,
    out: str | Path,
    *,
    features: str = "inception",
    weights: str | Path | None = None,
    convention: str | None = None,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: str | None = None,
) -> Path:
    """Writes statistics of ``source``'s images to ``out``, a .npz that ``evaluate(ref=out)`` reads; gives ``out``.

    Raises DiscliError for images that cannot be read, and a place where nothing can be written.
    """
    source, out = Path(source), Path(out)
    if is_run(source):  # it could be sampled from, for hours, which is not what anyone means
        raise DiscliError(f"{source} is a run.", f"Draw its samples first: discli sample {source} --out samples")
    with process_group() as group:
        make_folder_of(out, "--out")
        where = pick_device(device)
        images = open_images(source, where)
        scanner = Scanner(load_extractor(features, weights, convention, where, precision), batch_size, group)
        make_reference_file(images, scanner, out)
        stderr.print(f"Statistics of {images.n:,} images.")
    return out


def _present(*accumulators: Accumulator | None) -> list[Accumulator]:
    return [each for each in accumulators if each is not None]


def _reference_rows(
    metrics: Sequence[Metric], reference: Reference, n: int, extractor: Extractor
) -> dict[str, FeatureBuffer]:
    """By feature, what keeps the reference's rows for those metrics that need them. Says what memory that takes."""
    images, found = reference.images, dict[str, FeatureBuffer]()
    for metric in metrics:
        if metric.needs == "images" and images is not None and metric.feature not in found:
            chosen = choose(images, min(images.n, _REFERENCE_KEPT))
            found[metric.feature] = FeatureBuffer(metric.feature, torch.as_tensor(chosen))
            names = ", ".join(m.name for m in metrics if m.needs == "images" and m.feature == metric.feature)
            need = format_bytes(4.0 * extractor.dims.get(metric.feature, 0) * (n + len(chosen)))
            stderr.print(f"{names}: keeps the {metric.feature} of {n:,} + {len(chosen):,} images, {need} of memory.")
    return found


def _recognition(
    metrics: Sequence[Metric], reference: ReferenceStats, extractor: Extractor, names: Sequence[str]
) -> Recognition | None:
    found = (metric.recognition(reference, names, metric.score_name(extractor, metric.name)) for metric in metrics)
    return next((each for each in found if each is not None), None)


def _class_scores(
    classes: PerClassMoments | None, others: PerClassMoments | None, reference: ImageSet | None
) -> tuple[ClassScore, ...] | None:
    """A distance for every class that both sides have two images of; None where nobody asked."""
    if classes is None or others is None or reference is None:
        return None
    names = class_names(reference)
    rows = []
    for label, mine in classes.classes.items():
        other = others.classes.get(label)
        if mine.n >= 2 and other is not None and other.n >= 2:
            distance = frechet_distance(mine.gaussian(), other.gaussian())
            row = {"class": names[label], "n": mine.n, "n_reference": other.n, "distance": distance}
            rows.append(ClassScore.model_validate(row))
    return tuple(rows)


def _sample_facts(path: Path, images: ImageSet, n: int) -> Samples:
    """Where the samples are, how many were scored, and what their manifest says of their making."""
    said = {} if images.manifest is None else images.manifest.model_dump(mode="json")
    made = {key: value for key, value in said.items() if key in Samples.model_fields}
    if images.manifest is not None:
        made |= images.manifest.in_words() | {"train_seed": images.manifest.recipe.train.seed}
    facts = {"path": str(path), "kind": images.kind, "n": n, "resolution": images.size}
    return Samples.model_validate(made | facts)


def _reference_facts(
    reference: Reference, statistics: ReferenceStatistics, kept: Mapping[str, FeatureBuffer], cached: bool | None
) -> ReferenceFacts:
    images = reference.images
    return ReferenceFacts(
        path=str(reference.path),
        kind=reference.kind,
        n_for_kid_and_prc=min(images.n, _REFERENCE_KEPT) if images is not None and kept else None,
        cached=cached,
        sha256=statistics.about.get("images_sha256") or sha256_of(reference.path),
        n=statistics.gaussians["features"].n,
        resolution=statistics.about.get("resolution", images.size if images is not None else None),
    )


def _warnings(n: int, reference: Gaussian, smallest_n: int, classes: Sequence[ClassScore]) -> tuple[str, ...]:
    """Lines about too few images, for people; ``smallest_n`` is what an interval needs."""
    found, dim = [], reference.dim
    for side, count in (("samples", n), ("reference images", reference.n)):
        if count is not None and count <= dim:
            found.append(
                f"{count:,} {side} in {dim:,} feature dimensions: the covariance is singular and the distance far"
                f" too high. Compare only at equal n; {dim + 1:,} make it regular, several times as many useful."
            )
    few = [row for row in classes if min(row.n, row.n_reference) <= dim]
    if few:
        found.append(
            f"{len(few):,} classes have no more than {dim:,} images, as many as there are feature dimensions: their"
            " distances are far too high, and comparable only between classes and runs of the same n."
        )
    if n < smallest_n:
        found.append(f"{n:,} samples are too few for an interval and an extrapolation ({smallest_n} needed).")
    return tuple(found)
