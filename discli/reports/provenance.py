"""What must stand beside a score for anyone to compare it: how the samples were made, and its weak points."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_FROM_MANIFEST = (
    "run",
    "checkpoint",
    "step",
    "sampler",
    "steps",
    "nfe",
    "cfg_scale",
    "guided_channels",
    "clip_denoised",
    "ema",
    "precision",
    "seed",
)


def samples_facts(
    path: Path, kind: str, n: int, size: tuple[int, int], manifest: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Where the samples lie, how many were scored, and what their manifest says of their making."""
    facts: dict[str, Any] = {"path": str(path), "kind": kind, "n": n, "resolution": list(size)}
    return facts | {key: manifest[key] for key in _FROM_MANIFEST if manifest is not None and key in manifest}


def score_warnings(
    n: int, reference_n: int | None, dim: int, smallest_for_interval: int, classes: Iterable[Mapping[str, Any]] = ()
) -> list[str]:
    """Lines about too few images, for people; empty when there is nothing to say."""
    found = []
    for side, count in (("samples", n), ("reference images", reference_n)):
        if count is not None and count <= dim:
            found.append(
                f"{count:,} {side} in {dim:,} feature dimensions: the covariance is singular and the distance far"
                f" too high. Compare only at equal n; {dim + 1:,} make it regular, several times as many useful."
            )
    few = [row for row in classes if min(row["n"], row["n_reference"]) <= dim]
    if few:
        found.append(
            f"{len(few):,} classes have no more than {dim:,} images, as many as there are feature dimensions: their"
            " distances are far too high, and comparable only between classes and runs of the same n."
        )
    if n < smallest_for_interval:
        found.append(
            f"{n:,} samples are too few for an interval and an extrapolation ({smallest_for_interval} needed)."
        )
    return found
