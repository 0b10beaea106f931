"""Running sums for the per-channel mean and standard deviation of what is stored."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from discli.recipe.contract import CodecIdentity

_SQUARES_IN_32_BITS = 1 << 16  # pixels: 255^2 * 2^16 < 2^32


@dataclass
class ChannelMoments:
    """Sums over all values of each channel, exact for pixels; ``count`` values per channel."""

    count: int = 0
    sums: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)

    def add(self, rows: npt.NDArray[np.generic], identity: CodecIdentity) -> None:
        """(k, *row_shape) as stored: pixels, or mean and std of latents side by side."""
        if not len(rows):
            return
        if identity.name == "rgb":
            sums, squares = _of_pixels(rows)
            values = rows[:, 0].size
        else:
            both = rows.reshape(-1, 2, identity.channels, rows.shape[-2] * rows.shape[-1]).astype(np.float64)
            mean, std = both[:, 0], both[:, 1]
            sums = mean.sum(axis=(0, 2))
            squares = np.einsum("nci,nci->c", mean, mean) + np.einsum("nci,nci->c", std, std)
            values = mean[:, 0].size
        zeros = [0] * identity.channels
        self.count += values
        self.sums = [old + new for old, new in zip(self.sums or zeros, sums.tolist(), strict=True)]
        self.squares = [old + new for old, new in zip(self.squares or zeros, squares.tolist(), strict=True)]

    def as_model_sees(self, identity: CodecIdentity) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) per channel, after the codec's scaling; of latents, with the posterior's own spread."""
        if not self.count:
            return (), ()
        mean = np.array(self.sums, dtype=np.float64) / self.count
        std = np.sqrt(np.maximum(np.array(self.squares, dtype=np.float64) / self.count - mean**2, 0.0))
        if identity.name == "rgb":
            mean, std = mean / 127.5 - 1.0, std / 127.5
        else:
            scale = identity.scaling_factor
            mean, std = (mean - identity.shift_factor) * scale, std * abs(scale)
        return _rounded(mean), _rounded(std)


def _of_pixels(rows: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    count, channels, height, width = rows.shape
    run = height * width if height * width <= _SQUARES_IN_32_BITS else width
    runs = rows.reshape(count, channels, -1, run).astype(np.uint32)
    sums = runs.sum(axis=(0, 2, 3), dtype=np.uint64)
    return sums, np.einsum("ncri,ncri->ncr", runs, runs).sum(axis=(0, 2), dtype=np.uint64)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """To six digits: parts that are merged add in another order."""
    return tuple(float(f"{value:.6g}") for value in values)
