"""``discli eval-fid``: samples and reference -> features -> statistics -> scores, with all that decides them.

Reads top to bottom: what is scored, what it is compared with, one pass over each, the numbers.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli import __version__
from discli.evaluation.images import ImageSet, choose, open_images, sha256_of
from discli.evaluation.metrics import (
    METRICS,
    SIZES,
    SMALLEST_N,
    BlockMoments,
    DinoV2,
    Extractor,
    FeatureBuffer,
    Gaussian,
    Inception,
    InceptionScore,
    Meter,
    Moments,
    Nearest,
    PerClassMoments,
    RandomFeatures,
    effect_of_n,
    find_convention,
    frechet_distance,
    kernel_distance,
    precision_recall,
    score_name,
)
from discli.evaluation.processes import own_device, processes
from discli.evaluation.reference import (
    Reference,
    Scanner,
    check_possible,
    check_resolution,
    check_statistics,
    gather_statistics,
    make_folder_of,
    make_reference_file,
    open_reference,
    trained_on,
)
from discli.reports.provenance import samples_facts, score_warnings
from discli.reports.score_card import NearestImages, write_score_card
from discli.reports.score_table import print_scores
from discli.runs.layout import find_run
from discli.runtime.console import format_bytes, progress, stderr
from discli.runtime.errors import DiscliError, did_you_mean

REFERENCE_KEPT = 50_000  # images, for KID, precision and recall
CARD_GRID = 64
CARD_QUERIES = 8
CARD_NEIGHBOURS = 5

Result = dict[str, Any]


def eval_fid(
    samples: Path,
    ref: Path | None = None,
    *,
    features: str = "inception",
    weights: Path | None = None,
    convention: str | None = None,
    metrics: Sequence[str] = ("fid",),
    n: int | None = None,
    per_class: bool = False,
    bootstrap: int = 50,
    card: Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    cache: bool = True,
    as_json: bool = False,
) -> Result:
    """Score SAMPLES (a folder of ``discli sample``, any folder, zip or tar of images, a .npz or .h5).

    ``ref``: FILE.h5, a folder, a zip, or STATS.npz; without it the data that the run was trained on.
    ``metrics``: fid, sfid, is, kid, prc, or all. ``bootstrap`` resamples for the interval of the
    distance (0: neither interval nor FID-infinity). ``card`` writes an HTML score card. Prints a table,
    or JSON with ``as_json``; returns what the JSON holds. Under torchrun the processes share the work.
    """
    started = time.monotonic()
    with processes() as team:
        if card is not None:
            make_folder_of(card, "--card")
        where = own_device(device)
        samples = samples if samples.exists() else find_run(samples)
        images = open_images(samples, where, with_labels=per_class)
        manifest = images.manifest
        indices = choose(images, n)
        wanted = choose_metrics(metrics, features)
        reference = open_reference(ref or trained_on(samples, manifest), where, with_labels=per_class)
        check_resolution(reference, images)
        scanner = Scanner(load_extractor(features, weights, convention, where), batch_size, team)
        check_statistics(reference, scanner.extractor)
        check_possible(wanted, len(indices), images, reference, per_class)

        ours = _Ours(scanner.extractor, wanted, images, indices, bootstrap, per_class)
        if ours.kept is not None:
            _say_what_is_kept(len(indices), reference, scanner.extractor.dims["features"])
        # Kept as they pass: a run's would have to be drawn again.
        passing = FeatureBuffer("images", torch.tensor(_spread(range(len(indices)), CARD_GRID)))
        scanner.scan(images, indices, [*ours.meters(), *([passing] if card is not None else [])], "samples")
        shown = team.once(lambda: passing.rows().to(torch.uint8)) if card is not None else None
        theirs = _theirs(reference, scanner, ours, shown, cache)

        extractor, gaussian = scanner.extractor, theirs.gaussians["features"]
        classes = team.once(lambda: _per_class(ours, theirs, images, reference))
        result: Result = {
            "discli_version": __version__,
            "features": extractor.name,
            **team.once(lambda: _numbers(wanted, extractor.name, ours, theirs, bootstrap)),
            "per_class": classes,
            "convention": extractor.convention and extractor.convention.facts("is" in wanted),
            "network": extractor.network,
            "weights_sha256": extractor.weights_sha256,
            "samples": samples_facts(samples, images.kind, len(indices), images.size, manifest),
            "reference": theirs.facts,
            "warnings": score_warnings(
                len(indices), gaussian.n, gaussian.dim, SMALLEST_N if bootstrap else 0, classes or ()
            ),
            "torch_version": torch.__version__,
            "device": str(where),
            "processes": team.count,
            "seconds": round(time.monotonic() - started, 1),
        }
        if team.is_main:
            if as_json:
                print(json.dumps(result, indent=1))
            else:
                print_scores(result)
            if card is not None and shown is not None:
                write_score_card(card, result, shown, _nearest_images(shown, reference, theirs))
                stderr.print(f"Score card: {card}")
    return result


def make_ref(
    source: Path,
    out: Path,
    *,
    features: str = "inception",
    weights: Path | None = None,
    convention: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
) -> Path:
    """``discli eval-fid --make-ref SOURCE --out ref.npz``: the statistics that ``--ref ref.npz`` reads."""
    with processes() as team:
        make_folder_of(out, "--out")
        where = own_device(device)
        images = open_images(source, where)
        scanner = Scanner(load_extractor(features, weights, convention, where), batch_size, team)
        make_reference_file(images, scanner, out)
        stderr.print(f"Statistics of {images.n:,} images.")
        if team.is_main:
            print(out)
    return out


def load_extractor(features: str, weights: Path | None, convention: str | None, device: torch.device) -> Extractor:
    """The feature network; without a ``convention``, as its published figures were made."""
    if features == "random":
        return RandomFeatures(device)
    if features == "dinov2":
        return DinoV2(weights, find_convention(convention or "clean-fid"), device)
    if features != "inception":
        raise DiscliError(f"--features {features}: no such features.", "Choose inception, dinov2 or random.")
    return Inception(weights, find_convention(convention or "torch-fidelity"), device)


def choose_metrics(metrics: Sequence[str], features: str) -> list[str]:
    """Checked names, in the order of METRICS; other features than Inception's have no logits and no spatial layer."""
    possible = [name for name, feature in METRICS.items() if features == "inception" or feature == "features"]
    if "all" in metrics:
        return possible
    for name in metrics:
        if name not in METRICS:
            suggestion = did_you_mean(name, METRICS) or f"Choose from {', '.join(METRICS)}, or all."
            raise DiscliError(f"--metrics {name}: no such metric.", suggestion)
        if name not in possible:
            raise DiscliError(
                f"--metrics {name} needs Inception.", f"With --features {features}: {', '.join(possible)}."
            )
    return [name for name in possible if name in metrics]


class _Ours:
    """What accumulates while the samples pass."""

    def __init__(
        self,
        extractor: Extractor,
        wanted: Sequence[str],
        images: ImageSet,
        indices: Sequence[int],
        bootstrap: int,
        per_class: bool,
    ) -> None:
        n, dims = len(indices), extractor.dims
        self.blocks = BlockMoments(n, dims["features"]) if "fid" in wanted and bootstrap and n >= SMALLEST_N else None
        self.features = self.blocks or Moments(dims["features"])
        self.spatial = Moments(dims["spatial"], "spatial") if "sfid" in wanted else None
        self.inception_score = self.kept = self.classes = None
        if "is" in wanted and extractor.convention is not None:
            self.inception_score = InceptionScore(n, dims["logits"], extractor.convention.splits)
        if {"kid", "prc"} & set(wanted):
            self.kept = FeatureBuffer()
        if per_class and images.labels is not None:
            self.classes = PerClassMoments(images.labels[list(indices)], dims["features"])

    def meters(self) -> list[Meter]:
        every = (self.features, self.spatial, self.inception_score, self.kept, self.classes)
        return [meter for meter in every if meter is not None]


@dataclass(frozen=True)
class _Theirs:
    """The reference's side of every comparison."""

    gaussians: dict[str, Gaussian]
    kept: FeatureBuffer | None
    classes: PerClassMoments | None
    nearest: Nearest | None
    facts: dict[str, Any]


def _theirs(reference: Reference, scanner: Scanner, ours: _Ours, shown: Tensor | None, cache: bool) -> _Theirs:
    """Published statistics, cached ones, or a pass over the reference's images; ``shown`` want their neighbours."""
    images = reference.images
    facts: dict[str, Any] = {"path": str(reference.path), "kind": reference.kind}
    kept = classes = nearest = None
    if images is not None:
        if ours.kept is not None:
            chosen = choose(images, min(images.n, REFERENCE_KEPT))
            kept, facts["n_for_kid_and_prc"] = FeatureBuffer(wanted=torch.as_tensor(chosen)), len(chosen)
        if ours.classes is not None and images.labels is not None:
            classes = PerClassMoments(images.labels, scanner.extractor.dims["features"])
        if shown is not None:
            nearest = Nearest(scanner.extractor(_queries(shown))["features"], CARD_NEIGHBOURS)
    more: list[Meter] = [meter for meter in (kept, classes, nearest) if meter is not None]
    if reference.published is not None:
        if images is not None and more:
            scanner.scan(images, range(images.n), more, "reference")
        statistics = reference.published
        facts["sha256"] = statistics.about.get("images_sha256") or sha256_of(reference.path)
    else:
        assert images is not None
        statistics, facts["cached"] = gather_statistics(images, scanner, more, cache)
        facts["sha256"] = statistics.about["images_sha256"]
    seen = list(images.size) if images is not None else None
    facts |= {"n": statistics.gaussians["features"].n, "resolution": statistics.about.get("resolution", seen)}
    return _Theirs(statistics.gaussians, kept, classes, nearest, facts)


def _say_what_is_kept(n: int, reference: Reference, dim: int) -> None:
    """The one need for memory that grows with n."""
    theirs = min(reference.images.n, REFERENCE_KEPT) if reference.images is not None else 0
    need = format_bytes(4.0 * dim * (n + theirs))
    stderr.print(f"KID, precision and recall keep the features of {n:,} + {theirs:,} images: {need} of memory.")


def _numbers(wanted: Sequence[str], features: str, ours: _Ours, theirs: _Theirs, replicates: int) -> dict[str, Any]:
    """Every score by the name it may be called, and what n does to the distance."""
    found: dict[str, float] = {}
    distance = effect = None
    if "fid" in wanted:
        distance = frechet_distance(ours.features.gaussian(), theirs.gaussians["features"])
        found[score_name("fid", features)] = distance
    if ours.blocks is not None:
        effect = _effect_of_n(ours.blocks, theirs.gaussians["features"], replicates)
    if ours.spatial is not None:
        found[score_name("sfid", features)] = frechet_distance(ours.spatial.gaussian(), theirs.gaussians["spatial"])
    if ours.inception_score is not None:
        scores = ours.inception_score.scores()
        name = score_name("is", features)
        found[name] = float(scores.mean())
        if len(scores) > 1:
            found[f"{name} std"] = float(scores.std(correction=0))
    if ours.kept is not None and theirs.kept is not None:
        mine, other = ours.kept.rows(), theirs.kept.rows()
        if "kid" in wanted:
            kid, name = kernel_distance(mine, other), score_name("kid", features)
            found |= {name: kid.mean, f"{name} std": kid.std}
        if "prc" in wanted:
            precision, recall = precision_recall(mine, other)
            found |= {score_name("precision", features): precision, score_name("recall", features): recall}
    return {"distance": distance, "scores": found, "effect_of_n": effect}


def _effect_of_n(blocks: BlockMoments, reference: Gaussian, replicates: int) -> dict[str, Any]:
    with progress("interval", SIZES + replicates, "distances") as ticker:
        effect = effect_of_n(blocks, reference, replicates, each=ticker.advance)
    return {"n": blocks.gaussian().n, **vars(effect)}


def _per_class(ours: _Ours, theirs: _Theirs, images: ImageSet, reference: Reference) -> list[dict[str, Any]] | None:
    """A distance for every class that both sides have two images of; None where nobody asked."""
    if ours.classes is None or theirs.classes is None or reference.images is None:
        return None
    names = images.class_names or reference.images.class_names
    rows = []
    for label, mine in ours.classes.classes.items():
        other = theirs.classes.classes.get(label)
        if mine.n >= 2 and other is not None and other.n >= 2:
            distance = frechet_distance(mine.gaussian(), other.gaussian())
            name = names[label] if label < len(names) else str(label)
            rows.append({"class": name, "n": mine.n, "n_reference": other.n, "distance": distance})
    return rows


def _images(images: ImageSet, indices: Sequence[int]) -> Tensor:
    """(len(indices), 3, H, W) uint8; indices ascending."""
    return torch.cat(list(images.batches(indices, len(indices)))).cpu()


def _nearest_images(shown: Tensor, reference: Reference, theirs: _Theirs) -> NearestImages | None:
    """The first samples, each with its neighbours' images; None where the reference has none."""
    if theirs.nearest is None or reference.images is None:
        return None
    wanted, place = torch.unique(theirs.nearest.indices, return_inverse=True)
    found = _images(reference.images, wanted.tolist())
    return NearestImages(_queries(shown), found[place], theirs.nearest.distances)


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """Evenly over all: the first of a folder sorted by class would be one class."""
    count = min(len(indices), most)
    return [indices[place * len(indices) // count] for place in range(count)]


def _queries(shown: Tensor) -> Tensor:
    return shown[_spread(range(len(shown)), CARD_QUERIES)]
