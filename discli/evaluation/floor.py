"""The optimal loss of a data file: noisy draws of its samples -> their posteriors over all of it -> a floor, kept.

The mathematics is in `discli.diffusion.optimal`. A draw is known by its number alone, so that the floor does not depend
on the number of processes.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from discli import __version__
from discli.data.content import content_sha256
from discli.data.floor_file import ClassFloor, Floor, FloorOf, find_floor, write_floor
from discli.data.holdout import split
from discli.data.store import Store, open_store
from discli.diffusion.levels import noise_levels
from discli.diffusion.optimal import Errors, Keys, Queries, errors, estimate
from discli.recipe import Recipe
from discli.recipe.diffusion import DiffusionSpec
from discli.runtime.console import format_bytes, progress, stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.process_group import ProcessGroup, process_group
from discli.runtime.rng import RngStream, normal, permutation, uniform

QUERIES = 4096  # noisy draws at every level, by default
_SEED = 0
_ELEMENTS = 1 << 25  # of x0, and of noise, in memory at once
_KEYS = 2048  # samples in memory at once
_CENTRE = 2048  # samples whose mean is taken off
_MOST_FLOPS = {"cpu": 2e14, "cuda": 2e16}  # about ten minutes; above, a subset stands for the file
_OF_A_CLASS = 32  # draws, from which a class has a line of its own


def floor_of(
    data: str | Path,
    recipe: Recipe | None = None,
    *,
    mirrored: bool | None = None,
    conditional: bool | None = None,
    holdout: float | None = None,
    queries: int = QUERIES,
    keys: int | None = None,
    device: str | None = None,
    again: bool = False,
) -> Floor:
    """The floor of a data file: as ``recipe`` trains on it, and by default mirrored and by class where that can be.

    ``keys``: of so many samples, drawn at random, instead of all. Kept beside the file, and taken from there unless
    ``again`` or where it is of fewer draws or samples. Under torchrun the processes share the work, and all get the
    result.

    Raises DiscliError for a file that cannot be read, mirrored or split so.
    """
    with process_group() as group:
        store = open_store(data)
        contract = store.contract
        sigmas = noise_levels(recipe.diffusion if recipe else DiffusionSpec()).sigma.tolist()
        if recipe is not None:
            of = FloorOf.recipe(recipe, sigmas)
        else:
            of = FloorOf(
                mirrored=contract.can_flip, conditional=store.labels is not None, holdout=0.0, sigmas=tuple(sigmas)
            )
        asked = {"mirrored": mirrored, "conditional": conditional, "holdout": holdout}
        of = of.model_copy(update={key: value for key, value in asked.items() if value is not None})
        _check(store, of)
        train, _ = split(store, of.holdout, of.conditional)
        if len(train) < 2:
            raise DiscliError(f"{store.path} holds {len(train)} sample.", "A floor needs two.")
        where, width = pick_device(device), contract.codec.channels * contract.input_size.area
        keys = min(len(train), keys or _affordable(store, of, queries, width, where))
        kept = group.once(lambda: None if again else find_floor(store, of))
        if kept is not None and kept.queries >= queries and kept.keys >= keys:
            return kept
        floor = _compute(store, of, train, queries, keys, where, group)
        if group.is_main:
            try:
                write_floor(of.path(store), floor)
            except OSError as error:
                stderr.print(f"Not kept: {error}")
        return floor


def _check(store: Store, of: FloorOf) -> None:
    if store.shapes is not None:
        raise DiscliError(f"{store.path} holds images of several shapes, whose pixels do not compare.", "Encode one.")
    if of.mirrored and not store.contract.can_flip:
        raise DiscliError(
            f"{store.path} holds latents of one orientation: it has no floor with mirror images.",
            "Encode again with --flip, or give --no-flip.",
        )
    if of.conditional and store.labels is None:
        raise DiscliError(f"{store.path} has no classes.", "Give --no-classes, or encode it with labels.")


class _Found:
    """Errors of a part of the draws; ``half`` those over half of a subset."""

    def __init__(self, whole: Errors, half: Errors | None) -> None:
        self.parts = [(whole, half)]

    def merge(self, other: "_Found") -> None:
        self.parts += other.parts

    def all(self) -> tuple[Errors, Errors | None]:
        wholes, halves = zip(*self.parts, strict=True)
        return _joined(wholes), None if halves[0] is None else _joined(halves)


def _joined(parts: Any) -> Errors:
    return Errors(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _compute(
    store: Store,
    of: FloorOf,
    train: npt.NDArray[np.int64],
    count: int,
    keys: int,
    device: torch.device,
    group: ProcessGroup,
) -> Floor:
    started = time.monotonic()
    contract = store.contract
    width = contract.codec.channels * contract.input_size.area
    pool = train[permutation(_SEED, 0, len(train)).numpy()][:keys]  # a random subset, or all in a random order
    drawn = pool[np.arange(count) % len(pool)]
    share = group.share(count)
    step = max(1, _ELEMENTS // width)
    together = min(step, len(share))
    room = 4.0 * (3 * together * width + 2 * _KEYS * width + 5 * _KEYS * together)
    subset = "" if len(pool) == len(train) else f" a random {len(pool):,} of"
    stderr.print(
        f"Optimal loss of {store.path}: {count:,} noisy draws at {len(of.sigmas)} levels, over{subset} "
        f"{len(train):,} samples{' and their mirror images' if of.mirrored else ''}; about {format_bytes(room)}."
    )
    files = _Files(store, of, pool, len(train), device)
    found: _Found | None = None
    with progress("floor", count, "draws") as ticker:
        for start in range(share.start, share.stop, step):
            numbers = np.arange(start, min(start + step, share.stop))
            part = files.errors(
                numbers, drawn[numbers], lambda done: ticker.advance(min(done * group.count, count - ticker.done))
            )
            if found is None:
                found = part
            else:
                found.merge(part)
    if found is None:  # more processes than draws
        nothing = torch.empty(0, len(of.sigmas), dtype=torch.float64)
        found = _Found(Errors(nothing, nothing[..., None].expand(-1, -1, 2)), None)
    group.merge([found])
    return group.once(lambda: _floor(store, of, drawn, len(train), len(pool), found, time.monotonic() - started))


def _affordable(store: Store, of: FloorOf, count: int, width: int, device: torch.device) -> int:
    """Samples for which so many draws take no longer than they may."""
    pair = 4.0 * width * (2 * len(of.sigmas) if store.contract.codec.stores_std else 1) * (2 if of.mirrored else 1)
    classes = max(1, store.contract.num_classes) if of.conditional else 1
    most = int(_MOST_FLOPS["cuda" if device.type == "cuda" else "cpu"] / (pair * count)) * classes
    return max(most, min(count, len(store)))


def _floor(
    store: Store,
    of: FloorOf,
    drawn: npt.NDArray[np.int64],
    samples: int,
    keys: int,
    found: _Found,
    seconds: float,
) -> Floor:
    whole, half = found.all()
    best = estimate(whole)
    bias = None if half is None else (estimate(half).mean - best.mean).abs().tolist()
    classes = []
    if of.conditional and store.labels is not None:
        for label, name in enumerate(store.contract.class_names):
            mine = torch.from_numpy(store.labels[drawn] == label)
            if int(mine.sum()) >= _OF_A_CLASS:
                own = estimate(Errors(whole.error[mine], whole.zeros[mine]))
                classes.append(
                    ClassFloor(
                        name=name,
                        queries=int(mine.sum()),
                        error=tuple(own.mean.tolist()),
                        std_error=tuple(own.std_error.tolist()),
                    )
                )
    return Floor(
        discli_version=__version__,
        data=store.title,
        data_sha256=content_sha256(store),
        contract=store.contract,
        samples=samples,
        queries=len(drawn),
        keys=keys,
        error=tuple(best.mean.tolist()),
        std_error=tuple(best.std_error.tolist()),
        bias=None if bias is None else tuple(bias),
        classes=tuple(classes),
        seconds=round(seconds, 1),
        **of.model_dump(),
    )


def _normal(what: int, numbers: Tensor, shape: Sequence[int]) -> Tensor:
    """In parts, for in the making it takes many times the memory of what comes out."""
    return torch.cat([normal(_SEED, RngStream.FLOOR, what, part, shape) for part in numbers.split(256)])


class _Files:
    """Samples of a data file as components, flattened, with their mean taken off: numbers of less size round less."""

    def __init__(
        self, store: Store, of: FloorOf, pool: npt.NDArray[np.int64], samples: int, device: torch.device
    ) -> None:
        self.store, self.of, self.pool, self.samples, self.device = store, of, pool, samples, device
        some = self._components(pool[:_CENTRE], None)
        self.centre = some.mean.mean(0)
        # Where the autoencoder has no spread, samples are points.
        self.points = some.std is None or not bool(some.std.any())

    def errors(self, numbers: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64], done: Any) -> _Found:
        """Of the draws of these numbers, from the samples ``drawn``."""
        labels = self.store.labels
        if not self.of.conditional or labels is None:
            found = self._errors(numbers, drawn, self.pool, self.samples)
            done(len(numbers))
            return found
        # The class is given, so the posterior is over its samples alone.
        order, parts = [], []
        out = self._counts(labels)
        for label in np.unique(labels[drawn]):
            mine = np.flatnonzero(labels[drawn] == label)
            pool = self.pool[labels[self.pool] == label]
            parts.append(self._errors(numbers[mine], drawn[mine], pool, int(out[label])))
            order.append(mine)
            done(len(mine))
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
        wholes, halves = zip(*(part.parts[0] for part in parts), strict=True)
        whole = Errors(*(values[back] for values in _joined(wholes)))
        if any(half is None for half in halves):
            return _Found(whole, None)
        return _Found(whole, Errors(*(values[back] for values in _joined(halves))))

    def _counts(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        train, _ = split(self.store, self.of.holdout, self.of.conditional)
        return np.bincount(labels[train])

    def _errors(
        self, numbers: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64], pool: npt.NDArray[np.int64], samples: int
    ) -> _Found:
        queries = self._queries(numbers, drawn)
        whole = self._over(queries, pool, samples)
        if len(self.pool) == self.samples:
            return _Found(whole, None)
        return _Found(whole, self._over(queries, pool[: max(1, len(pool) // 2)], samples))

    def _over(self, queries: Queries, pool: npt.NDArray[np.int64], samples: int) -> Errors:
        weight = (samples - 1) / (len(pool) - 1) if len(pool) > 1 else 1.0
        found = errors(queries, self._keys(pool), self.of.sigmas, max(1.0, weight))
        return Errors(*(values.cpu() for values in found))

    def _queries(self, numbers: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64]) -> Queries:
        at = torch.from_numpy(numbers).to(self.device)
        flip = None
        if self.of.mirrored:
            flip = (uniform(_SEED, RngStream.FLOOR, 2, torch.from_numpy(numbers)) < 0.5).numpy()
        own = self._keys_of(drawn, flip)
        shape = own.mean.shape[1:]
        eps = _normal(0, at, shape)
        x0 = own.mean
        if own.std is not None:
            x0 = x0 + own.std * _normal(1, at, shape)
        return Queries(x0, eps, own)

    def _keys(self, pool: npt.NDArray[np.int64]) -> Iterator[Keys]:
        for start in range(0, len(pool), _KEYS):
            part = pool[start : start + _KEYS]
            yield self._keys_of(part, np.zeros(len(part), np.bool_) if self.of.mirrored else None)
            if self.of.mirrored:
                yield self._keys_of(part, np.ones(len(part), np.bool_))

    def _keys_of(self, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None) -> Keys:
        found = self._components(indices, flip)
        return Keys(found.mean - self.centre, None if self.points else found.std, found.number)

    def _components(self, indices: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_] | None) -> Keys:
        codec = self.store.contract.codec
        stored = self.store.read(indices, flip).to(self.device)
        mean, std = codec.to_model_space(stored).flatten(1), None
        if codec.stores_std:
            _, std = codec.stats_in_model_space(*stored.float().chunk(2, dim=1))
            assert isinstance(std, Tensor)
            std = std.flatten(1)
        number = torch.from_numpy(indices if flip is None else indices + len(self.store) * flip).to(self.device)
        return Keys(mean, std, number)
