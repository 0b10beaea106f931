"""Running sums for the per-channel mean and standard deviation of what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discli.recipe.codec import CodecIdentity
from discli.recipe.contract import DataContract

Floats = npt.NDArray[np.float64]

_SQUARES_IN_32_BITS = 1 << 16  # pixels: 255^2 * 2^16 < 2^32


class Measured(NamedTuple):
    """What a contract says of all samples: the codec with its statistics, and each channel as the model sees it."""

    codec: CodecIdentity
    channel_mean: tuple[float, ...] = ()
    channel_std: tuple[float, ...] = ()


@dataclass
class ChannelMoments:
    """Sums over all values of each channel, exact for pixels; ``count`` values per channel."""

    count: int = 0
    sums: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)

    def __add__(self, other: "ChannelMoments") -> "ChannelMoments":
        zeros = [0] * max(len(self.sums), len(other.sums))
        return ChannelMoments(
            self.count + other.count,
            [one + two for one, two in zip(self.sums or zeros, other.sums or zeros, strict=True)],
            [one + two for one, two in zip(self.squares or zeros, other.squares or zeros, strict=True)],
        )

    def add(self, rows: npt.NDArray[np.generic], identity: CodecIdentity) -> None:
        """(k, *row_shape) as stored: pixels, or mean and std of latents side by side."""
        if not len(rows):
            return
        channels, height, width = rows.shape[-3:]
        if identity.is_pixels:
            sums, squares = _of_pixels(rows.reshape(-1, channels, height, width))
            values = rows.size // channels
        else:
            parts = 2 if identity.stores_std else 1
            both = rows.reshape(-1, parts, identity.channels, height * width).astype(np.float64)
            mean = both[:, 0]
            sums, squares = mean.sum(axis=(0, 2)), np.einsum("nci,nci->c", mean, mean)
            if identity.stores_std:
                squares = squares + np.einsum("nci,nci->c", both[:, 1], both[:, 1])
            values = mean[:, 0].size
        zeros = [0] * identity.channels
        self.count += values
        self.sums = [old + new for old, new in zip(self.sums or zeros, sums.tolist(), strict=True)]
        self.squares = [old + new for old, new in zip(self.squares or zeros, squares.tolist(), strict=True)]

    def of_contract(self, identity: CodecIdentity) -> Measured:
        """Of latents, with the posterior's own spread."""
        if not self.count:
            return Measured(identity)
        mean = np.array(self.sums, dtype=np.float64) / self.count
        std = np.sqrt(np.maximum(np.array(self.squares, dtype=np.float64) / self.count - mean**2, 0.0))
        return _of_contract(identity, mean, std)


def pooled(contracts: Sequence[DataContract]) -> Measured:
    """`ChannelMoments.of_contract` of several files as one, from what each says of its own samples."""
    identity = contracts[0].codec
    seen = [(each.num_samples, *(each.codec.statistics or (each.channel_mean, each.channel_std))) for each in contracts]
    groups = [group for group in seen if group[0] and group[1]]
    if not groups:
        return Measured(identity)
    counts = np.array([count for count, *_ in groups], np.float64)[:, None]
    means, stds = (np.array([group[place] for group in groups], np.float64) for place in (1, 2))
    mean = (counts * means).sum(0) / counts.sum()
    std = np.sqrt((counts * (stds**2 + (means - mean) ** 2)).sum(0) / counts.sum())
    if identity.statistics is not None:
        return _of_contract(identity, mean, std)
    return Measured(identity, _rounded(mean), _rounded(std))


def _of_contract(identity: CodecIdentity, mean: Floats, std: Floats) -> Measured:
    if identity.statistics is not None:
        identity = identity.measured(_rounded(mean), _rounded(std))
        # Of the rounded ones, which exactly 0 and 1 come of.
        mean, std = np.array(_rounded(mean)), np.array(_rounded(std))
    mean, std = identity.stats_in_model_space(mean, std)
    return Measured(identity, _rounded(mean), _rounded(std))


def _of_pixels(rows: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    count, channels, height, width = rows.shape
    run = height * width if height * width <= _SQUARES_IN_32_BITS else width
    runs = rows.reshape(count, channels, -1, run).astype(np.uint32)
    sums = runs.sum(axis=(0, 2, 3), dtype=np.uint64)
    return sums, np.einsum("ncri,ncri->ncr", runs, runs).sum(axis=(0, 2), dtype=np.uint64)


def _rounded(values: Floats) -> tuple[float, ...]:
    """To six digits: parts that are merged add in another order."""
    return tuple(float(f"{value:.6g}") for value in values)
