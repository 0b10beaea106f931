"""How much of a Frechet distance is the number of samples: extrapolation to infinity, and its spread."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from discli.evaluation.frechet import FrechetTo, square_root_factor
from discli.evaluation.moments import Gaussian, Moments
from discli.evaluation.parallel import on_every_core
from discli.runs.eval_result import FidInfinity

BLOCKS = 20
SMALLEST_N = 2 * BLOCKS
_ROWS = 256  # that a block takes in at once: each time it goes through D * D numbers, however few they are
SIZES = 16  # from a quarter of the blocks to all of them

_Blocks = npt.NDArray[np.int64] | range


class BlockMoments:
    """Moments of ``BLOCKS`` random parts of the samples, so that subsets can be scored without keeping features.

    Memory: BLOCKS * D * D float64 (0.67 GB at D = 2048, 4 MB at D = 160), whatever n is, and the last rows
    of each, which wait for more.
    """

    def __init__(self, n: int, dim: int, feature: str = "features", seed: int = 0) -> None:
        self.feature = feature
        self._blocks = [Moments(dim, feature) for _ in range(BLOCKS)]
        self._waiting: list[list[torch.Tensor]] = [[] for _ in range(BLOCKS)]
        # Samples often come sorted by class: which block a sample joins must not follow its index.
        self._block_of = torch.from_numpy(np.random.default_rng(seed).permutation(n) % BLOCKS)

    def update(self, rows_BD: torch.Tensor, first: int) -> None:
        block_of = self._block_of[first : first + len(rows_BD)]
        for index in set(block_of.tolist()):
            self._waiting[index].append(rows_BD[block_of == index])
            if sum(map(len, self._waiting[index])) >= _ROWS:
                self._take_in(index)

    def _take_in(self, index: int) -> None:
        if self._waiting[index]:
            self._blocks[index].update(torch.cat(self._waiting[index]))
            self._waiting[index] = []

    @property
    def blocks(self) -> list[Moments]:
        """Each with all rows that it was given."""
        for index in range(BLOCKS):
            self._take_in(index)
        return self._blocks

    def merge(self, other: "BlockMoments") -> None:
        for mine, theirs in zip(self.blocks, other.blocks, strict=True):
            mine.merge(theirs)

    def merged(self, chosen: _Blocks) -> Gaussian:
        """Statistics of the chosen blocks together; a block chosen twice counts twice."""
        blocks = self.blocks
        together = Moments(blocks[0].mean.shape[0], self.feature)
        for index in chosen:
            together.merge(blocks[index])
        return together.gaussian()

    def gaussian(self) -> Gaussian:
        return self.merged(range(BLOCKS))


def fid_infinity(
    samples: BlockMoments,
    reference: Gaussian,
    replicates: int = 50,
    level: float = 0.95,
    seed: int = 0,
    each: Callable[[], None] = lambda: None,
) -> FidInfinity:
    """FID-infinity (arXiv:1911.07023, section 3) and a bootstrap interval of the distance at n.

    The distance is biased upwards by about c/n: it is taken at 16 sizes from n/4 to n, each a random
    choice of blocks, and the intercept of the straight line in 1/n is the value at infinitely many
    samples. The reference stays as it is, its own bias included.

    The interval resamples whole blocks with replacement. A resample holds fewer distinct samples and
    so scores too high on average; the spread of the replicates is therefore centred on the distance.

    ``each`` is called after every distance, ``SIZES + replicates`` times, in the caller's thread; at D = 2048 each
    keeps a core busy for two seconds.
    """
    rng = np.random.default_rng(seed)
    everything = samples.gaussian()  # no rows wait after this, and several threads may look at the blocks
    span = torch.linalg.qr(square_root_factor(everything.covariance)).Q if everything.singular else None
    to_reference = FrechetTo(reference, within=span)

    def distance_of(chosen: _Blocks) -> tuple[int, float]:
        some = samples.merged(chosen)
        assert some.n is not None
        return some.n, to_reference.distance(some)

    smaller = [rng.permutation(BLOCKS)[:count] for count in range(BLOCKS - SIZES + 1, BLOCKS + 1)]
    resamples = [rng.integers(BLOCKS, size=BLOCKS) for _ in range(replicates)]
    found = on_every_core(distance_of, [*smaller, *resamples], each)
    by_size = found[:SIZES]
    distance = by_size[-1][1]
    _slope, infinity = np.polyfit([1 / n for n, _ in by_size], [d for _, d in by_size], 1)

    resampled = np.array([d for _, d in found[SIZES:]])
    spread = np.quantile(resampled - resampled.mean(), [(1 - level) / 2, (1 + level) / 2])
    low, high = max(0.0, distance + float(spread[0])), distance + float(spread[1])
    return FidInfinity(
        n=by_size[-1][0],
        distance=distance,
        infinity=float(infinity),
        low=low,
        high=high,
        level=level,
        replicates=replicates,
    )
