"""What samples are compared with: statistics from a file, from the cache, or from one pass over images."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from discli import __version__
from discli.evaluation.extractor import Extractor
from discli.evaluation.images import ImageSet, open_images
from discli.evaluation.metric import Accumulator, Metric, measure
from discli.evaluation.moments import Moments
from discli.evaluation.npz import ReferenceStatistics, holds_images, read_statistics, write_statistics
from discli.evaluation.sampled import is_run
from discli.recipe.data_files import are_there, is_name
from discli.recipe.size import Size
from discli.runs.manifest import Manifest
from discli.runtime.console import progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.process_group import ProcessGroup

CACHE_VARIABLE = "DISCLI_CACHE"


@dataclass(frozen=True)
class Scanner:
    """Images through the feature network into accumulators, with a progress bar; several processes share the work."""

    extractor: Extractor
    batch_size: int
    group: ProcessGroup

    def scan(self, images: ImageSet, indices: Sequence[int], accumulators: Sequence[Accumulator], what: str) -> None:
        """The first process's accumulators have then seen all ``indices``. Refuses fewer than two images."""
        if len(indices) < 2:
            raise DiscliError(
                f"{images.path} gives {len(indices)} image to score.",
                "A distance needs two, a useful one thousands.",
            )
        share = self.group.share(len(indices))
        mine = indices[share.start : share.stop]
        with progress(what, len(indices), "images") as ticker:
            measure(
                images.batches(mine, self.batch_size),
                self.extractor,
                accumulators,
                lambda count: ticker.advance(min(count * self.group.count, len(indices) - ticker.done)),
                first=share.start,
            )
        self.group.merge(accumulators)


@dataclass(frozen=True)
class Reference:
    """``published`` statistics come with a file and stand for more images than ``images``, if it has any."""

    path: Path
    images: ImageSet | None
    published: ReferenceStatistics | None

    @property
    def kind(self) -> str:
        if self.published is None:
            assert self.images is not None
            return self.images.kind
        return str(self.published.about.get("kind", "statistics of unstated origin"))


def open_reference(path: Path, device: torch.device, with_labels: bool = False) -> Reference:
    """A data file, folder, zip or tar; or a .npz with statistics (mu, sigma), images (arr_0), or both."""
    if not (are_there(path) or is_name(path)):
        raise DiscliError(f"--ref {path} does not exist.", "Give FILE.h5, a folder, a zip, or STATS.npz.")
    if is_run(path):  # it could be sampled from, for hours, which is not what anyone means
        raise DiscliError(f"--ref {path} is a run.", "Give the data that it was trained on, as --ref FILE.h5.")
    published = read_statistics(path) if path.suffix == ".npz" else None
    if published is None:
        return Reference(path, open_images(path, device, with_labels), None)
    return Reference(path, open_images(path, device) if holds_images(path) else None, published)


def about_statistics(images: ImageSet, extractor: Extractor) -> dict[str, Any]:
    """All that statistics depend on, and nothing else: the cache's key, and a line in made references."""
    return {
        "features": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": _resize(extractor),
        "precision": extractor.precision,
        "kind": images.kind,
        "images_sha256": images.content_sha256(),
        "images": images.n,
        "resolution": images.size and list(images.size),
    }


def _resize(extractor: Extractor) -> str | None:
    return extractor.convention.resize if extractor.convention else extractor.input_rule


def gather_statistics(
    images: ImageSet, scanner: Scanner, more: Sequence[Accumulator] = (), use_cache: bool = True
) -> tuple[ReferenceStatistics, bool]:
    """Statistics of all images, and whether they came from the cache; ``more`` accumulators see every image.

    Of several processes the first one has them whole.

    The cache is ``$DISCLI_CACHE`` or ``~/.cache/discli``, folder ``reference``; a file there is found by
    the content of the images, never by their path. 67 MB each for Inception.
    """
    dims = scanner.extractor.dims
    about = scanner.group.once(lambda: about_statistics(images, scanner.extractor))
    cached = cache_folder() / f"{_key(about)}.npz"
    if use_cache and not more:
        found = scanner.group.once(lambda: _from_cache(cached))
        if found is not None:
            stderr.print(f"Reference statistics of {images.path} from {cached}")
            return found, True
    moments = [Moments(dims[name], name) for name in ("features", "spatial") if name in dims]
    scanner.scan(images, range(images.n), [*moments, *more], "reference")
    statistics = scanner.group.once(lambda: ReferenceStatistics({m.feature: m.gaussian() for m in moments}, about))
    if use_cache and scanner.group.is_main:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_statistics(cached, statistics)
        except OSError as error:
            stderr.print(f"Not cached: {error}")
    return statistics, False


def _from_cache(path: Path) -> ReferenceStatistics | None:
    found = read_statistics(path) if path.is_file() else None
    return found if found is not None and _key(found.about) == path.stem else None


def check_statistics(reference: Reference, extractor: Extractor) -> None:
    """Refuse published statistics that another network or another resize made."""
    if reference.published is None:
        return
    about, path = reference.published.about, reference.path
    ours = {
        "features": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": _resize(extractor),
        "precision": extractor.precision,
    }
    for key, value in ours.items():
        if key in about and about[key] != value:
            raise DiscliError(
                f"{path} was made with {key} {about[key]}, the samples are scored with {value}.",
                "Use the same --features, --weights, --convention and --precision, or make it anew with make-ref.",
            )
    if "features" not in reference.published.gaussians:
        raise DiscliError(
            f"{path} has no mu and sigma of pooled features.", "Make the reference again with discli make-ref."
        )
    for feature, gaussian in reference.published.gaussians.items():
        if extractor.dims.get(feature, 0) != gaussian.dim:
            raise DiscliError(
                f"{path} holds statistics in {gaussian.dim:,} dimensions, not those of --features {extractor.name}"
                f" ({extractor.dims['features']:,}).",
                "FID statistics of other programs have 2,048 and need --features inception.",
            )


def reference_statistics(
    reference: Reference, scanner: Scanner, more: Sequence[Accumulator] = (), use_cache: bool = True
) -> tuple[ReferenceStatistics, bool | None]:
    """Published statistics, cached ones, or those of a pass over the reference's images, which ``more`` see too.

    And whether they came from the cache; None of published ones. Raises DiscliError where published ones are another
    network's.
    """
    check_statistics(reference, scanner.extractor)
    images = reference.images
    if reference.published is None:
        assert images is not None
        return gather_statistics(images, scanner, more, use_cache)
    if images is not None and more:
        scanner.scan(images, range(images.n), more, "reference")
    return reference.published, None


def check_resolution(reference: Reference, size: Size) -> None:
    """Refuse a reference of other pixels than the samples' ``size``: the resize would hide it."""
    known = None
    if reference.published is not None:
        known = reference.published.about.get("resolution")
    if known is None and reference.images is not None:
        known = reference.images.size
    if known is not None and tuple(known) != size:
        source = "IMAGES" if reference.path.suffix in (".h5", ".npz") else reference.path
        raise DiscliError(
            f"The reference {reference.path} has {known[0]}x{known[1]} px, the samples {size.height}x{size.width}.",
            f"Crop its images to the samples' size: discli encode {source} --res {size} --out ref.h5",
        )


def check_possible(
    metrics: Sequence[type[Metric]], n: int, images: ImageSet, reference: Reference, per_class: bool
) -> None:
    """Refuse, before any work, what these two sets cannot give."""
    published, theirs = reference.published, reference.images
    for metric in metrics:
        if metric.needs == "images" and theirs is None:
            raise DiscliError(
                f"--metrics {metric.name} needs images, and {reference.path} holds statistics alone.",
                "Give the images as --ref, or ask for --metrics fid.",
            )
        if metric.needs == "classes":
            for side in (images, theirs):
                if side is None or side.labels is None:
                    raise DiscliError(
                        f"--metrics {metric.name}: {reference.path if side is None else side.path} has no classes.",
                        "They come with discli sample and discli encode, and with the sub-folders of a folder.",
                    )
        if 1 < min(n, theirs.n if theirs is not None else n) < metric.smallest_n:
            raise DiscliError(
                f"--metrics {metric.name} needs {metric.smallest_n} images on both sides.", "Sample more."
            )
        if metric.needs == "statistics" and published is not None and metric.feature not in published.gaussians:
            raise DiscliError(
                f"{reference.path} has no statistics of {metric.feature}, which --metrics {metric.name} needs.",
                "Make the reference with discli make-ref, or use ADM's.",
            )
    if per_class:
        for side in (images, theirs):
            if side is None or side.labels is None:
                where = reference.path if side is None else side.path
                raise DiscliError(
                    f"--per-class: {where} has no class labels.",
                    "Samples have them from discli sample, data files from discli encode, folders from sub-folders.",
                )


def trained_on(samples: Path, manifest: Manifest | None) -> Path:
    """The data file that the samples' manifest names."""
    hint = "Name the reference: --ref FILE.h5"
    if manifest is None:
        raise DiscliError(f"{samples} has no manifest.json, which would name the data to compare with.", hint)
    data_file = manifest.data_file
    if not data_file:
        raise DiscliError(f"{samples}: its model does not name the data that it was trained on.", hint)
    if not are_there(data_file):
        raise DiscliError(f"{samples}: its model was trained on {data_file}, which is not there.", hint)
    return Path(data_file)


def cache_folder() -> Path:
    root = os.environ.get(CACHE_VARIABLE)
    if root:
        return Path(root) / "reference"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "discli" / "reference"


def make_folder_of(path: Path, flag: str) -> None:
    """Before any work: where a result is to be written, it can be."""
    if path.is_dir():
        raise DiscliError(f"{flag} {path} is a folder.", "Give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiscliError(f"{flag} {path}: {error}.", "Give a place where files can be written.") from None
    if not os.access(path.parent, os.W_OK):
        raise DiscliError(f"{flag} {path}: no right to write there.", "Give a place where files can be written.")


def make_reference_file(images: ImageSet, scanner: Scanner, out: Path) -> None:
    """``discli make-ref``: statistics that ``--ref`` reads, with what they were made of."""
    if out.suffix != ".npz":
        raise DiscliError(f"--out {out}: reference statistics are a .npz.", f"Give --out {out.with_suffix('.npz')}")
    statistics, _ = gather_statistics(images, scanner)
    if not scanner.group.is_main:
        return
    about = statistics.about | {"discli_version": __version__, "source": str(images.path)}
    write_statistics(out, ReferenceStatistics(statistics.gaussians, about))


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
