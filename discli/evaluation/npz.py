"""Reference statistics and image batches in NumPy's .npz, ADM's published files among them.

ADM's reference batches (``VIRTUAL_imagenet256_labeled.npz``) hold ``mu``, ``sigma`` (pooled features),
``mu_s``, ``sigma_s`` (spatial features) of a whole training set, and 10,000 of its images as ``arr_0``;
its sample batches hold ``arr_0``, sometimes with labels as ``arr_1``. Nothing is ever unpickled.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from discli.evaluation.moments import Gaussian
from discli.runtime.errors import DiscliError
from discli.runtime.files import parse_json, write_beside

_KEYS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class ReferenceStatistics:
    """A Gaussian per feature, and what is known of how they were made (empty for other programs' files)."""

    gaussians: dict[str, Gaussian]
    about: dict[str, Any] = field(default_factory=dict)


def write_statistics(path: Path, statistics: ReferenceStatistics) -> None:
    """Keys that ADM, pytorch-fid and torch-fidelity know, float64, plus ``discli``: JSON of ``about``."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for feature, gaussian in statistics.gaussians.items():
        mu, sigma = _KEYS[feature]
        arrays |= {mu: gaussian.mean.numpy(), sigma: gaussian.covariance.numpy()}
    n = {feature: gaussian.n for feature, gaussian in statistics.gaussians.items()}
    arrays["discli"] = np.array(json.dumps(statistics.about | {"n": n}))

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name would get .npz appended
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_beside(path, save)


def read_statistics(path: Path) -> ReferenceStatistics | None:
    """The statistics in a .npz; None where it holds none (a batch of images alone)."""
    with _open(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        about = _about(_array(archive, "discli")) if "discli" in names else {}
        counts = about.pop("n", {})
        gaussians = {}
        for feature, (mu, sigma) in _KEYS.items():
            if mu in names and sigma in names:
                gaussians[feature] = _gaussian(
                    path, mu, _array(archive, mu), _array(archive, sigma), counts.get(feature)
                )
        if not gaussians and "arr_0" not in names:
            raise DiscliError(
                f"{path} holds neither statistics (mu, sigma) nor images (arr_0), but {', '.join(sorted(names))}.",
                "Make reference statistics with discli make-ref SOURCE --out ref.npz",
            )
    return ReferenceStatistics(gaussians, about) if gaussians else None


def holds_images(path: Path) -> bool:
    """Whether a .npz holds images, be it beside statistics."""
    with _open(path) as archive:
        return "arr_0.npy" in archive.namelist()


class NpzImages:
    """``arr_0`` of a .npz, (N, H, W, 3) uint8, streamed from the archive: memory holds one batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as archive:
            names = archive.namelist()
            if "arr_0.npy" not in names:
                raise DiscliError(f"{path} holds no images (no arr_0).", "Give a batch as ADM's sampler writes it.")
            with archive.open("arr_0.npy") as file:
                shape, fortran, dtype = _header(file)
            labels = _array(archive, "arr_1") if "arr_1.npy" in names else None
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
            raise DiscliError(
                f"{path}: arr_0 is {dtype} of shape {shape}, not images.", "Images are uint8 (N, H, W, 3)."
            )
        if 0 in shape:
            raise DiscliError(f"{path}: arr_0 of shape {shape} holds no images.", "Write it again.")
        self.n, self.height, self.width = shape[0], shape[1], shape[2]
        usable = labels is not None and labels.shape == (self.n,) and np.issubdtype(labels.dtype, np.integer)
        self.labels = torch.from_numpy(labels.astype(np.int64)) if labels is not None and usable else None

    def batches(self, size: int) -> Iterator[Tensor]:
        """(B, 3, H, W) uint8, in order."""
        bytes_each = self.height * self.width * 3
        with _open(self.path) as archive, archive.open("arr_0.npy") as file:
            _header(file)
            for first in range(0, self.n, size):
                count = min(size, self.n - first)
                data = file.read(count * bytes_each)
                if len(data) != count * bytes_each:
                    raise DiscliError(f"{self.path} ends before its last image.", "Download or write it again.")
                pixels = np.frombuffer(bytearray(data), dtype=np.uint8).reshape(count, self.height, self.width, 3)
                yield torch.from_numpy(pixels).permute(0, 3, 1, 2)


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    """Whatever goes wrong within becomes a DiscliError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DiscliError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise all kinds over a damaged file
        why = error or type(error).__name__
        raise DiscliError(f"{path} is not a readable .npz ({why}).", "Download or write it again.") from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        try:
            found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:
            raise ValueError(f"{name} cannot be read: {error}") from None
        return found


def _about(text: npt.NDArray[Any]) -> dict[str, Any]:
    """What `write_statistics` says of them. Raises ValueError for anything else."""
    about = parse_json(str(text))
    counts = about.get("n", {}) if isinstance(about, dict) else None
    if not isinstance(counts, dict) or not all(type(n) is int and n > 0 for n in counts.values() if n is not None):
        raise ValueError("discli is not what discli writes")
    size = about.get("resolution")
    if size is not None and not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        raise ValueError(f"discli: a resolution of {size}")
    return dict(about)


def _gaussian(path: Path, name: str, mean: npt.NDArray[Any], covariance: npt.NDArray[Any], n: int | None) -> Gaussian:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DiscliError(
            f"{path}: {name} of shape {mean.shape} and a covariance of shape {covariance.shape} do not fit.",
            "A mean is (D,), a covariance (D, D).",
        )
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu" or not len(mean):
        raise DiscliError(f"{path}: {name} or its covariance holds no numbers.", "Make the statistics again.")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DiscliError(f"{path}: {name} or its covariance holds NaN or infinity.", "Make the statistics again.")
    return Gaussian(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance.astype(np.float64)), n)
