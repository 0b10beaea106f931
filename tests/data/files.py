"""Data files of known rows, written without any images."""

from pathlib import Path
from typing import Any

import numpy as np

from discli.data.autoencoders.rgb import RgbIdentity
from discli.data.autoencoders.vae import VaeIdentity
from discli.data.writer import StoreWriter
from discli.recipe.contract import DataContract

VAE = VaeIdentity(vae="x", kind="AutoencoderKL", weights_sha256="0", scaling_factor=0.5, channels=2, downsample=2)


def contract(**changes: Any) -> DataContract:
    settings: dict[str, Any] = {
        "discli_version": "0",
        "codec": RgbIdentity(),
        "resolution": 4,
        "crop": "adm",
        "dtype": "uint8",
        "flip_stored": False,
        "num_samples": 0,
        "class_names": ("ant", "bee"),
        "source": "images",
        "source_sha256": "abc",
    }
    return DataContract(**settings | changes)


def some_rows(count: int, promise: DataContract) -> np.ndarray:
    rng = np.random.default_rng(count)
    values = rng.integers(0, 256, (count, *promise.row_shape))
    return values.astype(promise.dtype) if promise.dtype == "uint8" else (values / 64).astype(promise.dtype)


def write_store(
    out: Path,
    rows: np.ndarray,
    promise: DataContract,
    labels: np.ndarray | None = None,
    shapes: np.ndarray | None = None,
) -> Path:
    """A finished file of ``rows``, named 0, 1, ..."""
    with StoreWriter(out, promise.model_copy(update={"num_samples": len(rows)}), range(len(rows)), {}) as writer:
        writer.append(rows, len(rows), shapes=shapes)
        finish(writer, promise, labels)
    return out


def finish(writer: StoreWriter, promise: DataContract, labels: np.ndarray | None = None) -> None:
    """As encode does, minus the images; without ``labels`` there are no classes either."""
    if labels is None:
        promise = promise.model_copy(update={"class_names": ()})
    state = writer.settle()
    promise = promise.model_copy(update={"num_samples": state.rows, "num_skipped": len(state.skipped)})
    skipped = [f"{position}\t{why}" for position, why in state.skipped]
    names = [str(k) for k in range(state.rows)]
    writer.finish(promise, names, labels, skipped, (0, state.end, state.end))
