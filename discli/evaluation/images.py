"""What can be scored: a folder, zip or tar of images, a data file, a batch in .npz, a run, as uint8 batches.

Images are scored as they are: no crop and no resize happens here, because a reference prepared
otherwise than the samples is the commonest reason why two FIDs disagree.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from discli.data.autoencoders import Codec, load_codec
from discli.data.content import content_sha256
from discli.data.images import ImageError, decode
from discli.data.sources import open_source
from discli.data.store import open_store
from discli.evaluation.npz import NpzImages
from discli.evaluation.sampled import SampledImages, is_run
from discli.recipe.data_files import files_of
from discli.recipe.size import Size
from discli.runs.manifest import Manifest, read_manifest
from discli.runtime.errors import DiscliError
from discli.runtime.files import sha256_of

_DECODED_AHEAD = 256  # images; 50 MB at 256 px


class ImageSet(Protocol):
    """Images of one size, in a fixed order; ``kind`` says in words what they are."""

    path: Path
    kind: str
    n: int
    labels: Tensor | None  # (n,) int64
    class_names: Sequence[str]

    @property
    def manifest(self) -> Manifest | None:
        """How ``discli sample`` made them, where it did."""
        ...

    @property
    def size(self) -> Size | None:
        """In pixels; None: several."""
        ...

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        """(B, 3, H, W) uint8, ``indices`` ascending."""
        ...

    def content_sha256(self) -> str:
        """Of the images, wherever they lie: a renamed folder keeps it, a changed one does not."""
        ...


def open_images(path: Path, device: torch.device, with_labels: bool = False) -> ImageSet:
    """Raises DiscliError for what does not exist or holds no images."""
    if files_of(path)[0].suffix == ".h5":
        return StoredImages(path, device)
    if path.suffix == ".npz":
        return BatchImages(path)
    if is_run(path):
        return SampledImages(path, device)
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is not None and manifest.format == "npz":
        return BatchImages(path / "samples.npz", manifest)
    return SourceImages(path, with_labels, manifest)


class SourceImages:
    """Files in a folder, zip or tar, decoded by threads ahead of whoever takes them."""

    def __init__(self, path: Path, with_labels: bool = False, manifest: Manifest | None = None) -> None:
        self.path, self.manifest = path, manifest
        if manifest is not None and manifest.format == "zip":
            path = path / "samples.zip"
        self._source = open_source(path, None if with_labels else "none")
        self.kind = f"images in a {self._source.kind}"
        self._reading = threading.Lock()  # readers keep files open between calls
        self._files = list(range(len(self._source)))
        self.labels = None if self._source.labels is None else torch.from_numpy(self._source.labels)
        self.class_names: Sequence[str] = self._source.class_names
        if self.manifest is not None:
            self._only_samples(self.manifest)
        self.n = len(self._files)

    def _only_samples(self, manifest: Manifest) -> None:
        """The numbered images alone, and their classes from the manifest."""
        names = {name: index for index, name in enumerate(self._source.names)}
        self.kind = "samples"
        n = manifest.n
        wanted = [f"{i:06d}.png" for i in range(min(n, len(names) + 1))]
        missing = next((name for name in wanted if name not in names), None)
        if missing is not None:
            there = sum(stem.isdecimal() and int(stem) < n for stem in (Path(name).stem for name in names))
            raise DiscliError(
                f"{self.path} lacks {n - there:,} of its {n:,} samples: {missing}, ...",
                "Run the same discli sample command again: it makes those that are missing.",
            )
        self._files = [names[name] for name in wanted]
        self.labels = None if manifest.classes is None else torch.tensor(manifest.classes)
        self.class_names = manifest.contract.class_names

    @property
    def size(self) -> Size:
        return Size(*self._pixels(self._files[0]).shape[:2])

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        size, first = self.size, self._source.names[self._files[0]]
        waiting: deque[Future[np.ndarray[Any, np.dtype[np.uint8]]]] = deque()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                ahead = iter(indices)
                batch: list[Tensor] = []
                for index in indices:
                    for later in islice(ahead, _DECODED_AHEAD - len(waiting)):
                        waiting.append(pool.submit(self._pixels, self._files[later]))
                    pixels = waiting.popleft().result()
                    if pixels.shape[:2] != size:
                        name = self._source.names[self._files[index]]
                        raise DiscliError(
                            f"{self.path} mixes sizes: {first} has {_by(size)} px, {name} {_by(pixels.shape)}.",
                            f"Bring them to one size first: discli encode {self.path} --res N --out FILE.h5",
                        )
                    batch.append(torch.from_numpy(pixels).permute(2, 0, 1))
                    if len(batch) == batch_size:
                        yield torch.stack(batch)
                        batch = []
                if batch:
                    yield torch.stack(batch)
            finally:
                pool.shutdown(cancel_futures=True)

    def content_sha256(self) -> str:
        digest = hashlib.sha256()
        for file in self._files:
            try:
                digest.update(hashlib.sha256(self._source.read(file)).digest())
            except ImageError as error:
                raise self._unreadable(file, error) from None
        return digest.hexdigest()

    def _pixels(self, file: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        try:
            with self._reading:
                data = self._source.read(file)
            return np.array(decode(data))
        except ImageError as error:
            raise self._unreadable(file, error) from None

    def _unreadable(self, file: int, error: ImageError) -> DiscliError:
        return DiscliError(
            f"{self.path}: {self._source.names[file]} cannot be read: {error}.", "Repair it, or take it out."
        )


class StoredImages:
    """A data file of ``discli encode``: its pixels, or what the autoencoder makes of its latents."""

    manifest = None

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self._store = open_store(path)
        self._device = device
        codec = self._store.contract.codec
        self.kind = (
            "data file"
            if codec.is_pixels
            else f"reconstructions by {codec.weights or codec.name} of the latents in a data file"
        )
        self.n = len(self._store)
        self.labels = None if self._store.labels is None else torch.from_numpy(np.asarray(self._store.labels))
        self.class_names: Sequence[str] = self._store.contract.class_names

    @property
    def size(self) -> Size | None:
        return None if self._store.contract.shapes else self._store.contract.resolution

    @cached_property
    def _codec(self) -> Codec:
        return load_codec(self._store.contract.codec, self._device)

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        identity = self._store.contract.codec
        codec = None if identity.is_pixels else self._codec
        for some in self._store.in_turn(np.asarray(indices, dtype=np.int64), batch_size):
            stored = self._store.read(some)
            if codec is None:
                yield stored
            else:
                yield codec.decode(identity.to_model_space(stored.to(self._device)))

    def content_sha256(self) -> str:
        return content_sha256(self._store)


class BatchImages:
    """``arr_0`` of a .npz, as ADM's sampler writes it, or as ``discli sample --npz`` does."""

    def __init__(self, path: Path, manifest: Manifest | None = None) -> None:
        self.path, self.manifest = path, manifest
        self.kind = "images in a .npz" if manifest is None else "samples"
        self._images = NpzImages(path)
        self.n, self.labels = self._images.n, self._images.labels
        self.class_names: Sequence[str] = () if manifest is None else manifest.contract.class_names

    @property
    def size(self) -> Size:
        return Size(self._images.height, self._images.width)

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        wanted, first = torch.as_tensor(indices), 0
        for batch in self._images.batches(batch_size):
            chosen = batch[torch.isin(torch.arange(first, first + len(batch)), wanted)]
            first += len(batch)
            if len(chosen):
                yield chosen

    def content_sha256(self) -> str:
        return sha256_of(self.path)


def choose(images: ImageSet, n: int | None) -> Sequence[int]:
    """Which images to score: all, the first n of samples, or n drawn at random (seed 0) of anything else.

    The first n files of a folder sorted by class would be one class.
    """
    if isinstance(images, SampledImages):
        return images.take(n)
    if n is None or n == images.n:
        return range(images.n)
    if n > images.n:
        raise DiscliError(f"-n {n:,}, but {images.path} holds {images.n:,} images.", "Sample more, or leave -n out.")
    if images.kind == "samples":
        return range(n)
    return sorted(np.random.default_rng(0).choice(images.n, n, replace=False).tolist())


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
