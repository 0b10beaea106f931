"""Random numbers that depend on what they are for, not on what was drawn before.

Every draw is addressed by (seed, stream, step, sample index), so resuming, changing the batch size
or the number of processes cannot shift it. The generator is Philox4x32-10 (Salmon et al., 2011,
"Parallel random numbers: as easy as 1, 2, 3"), run as integer tensor operations on whichever
device needs the numbers.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import cache

import torch
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
LARGEST_SEED = 2**64 - 1


class RngStream(IntEnum):
    """What the numbers are for. Values are part of every run's identity: never renumber."""

    TIMESTEP = 0
    NOISE = 1
    CLASS_DROPOUT = 2
    FLIP = 3
    LATENT = 4
    DROP_PATH = 5
    CLASS = 6
    PERMUTATION = 7
    HOLDOUT = 8
    FLOOR = 9
    TEACHER = 10
    ROUTE = 11


def uniform(seed: int, stream: RngStream, step: int, index: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """(len(index), *shape) float32 in [0, 1), one row per sample index (int64, 1-D)."""
    bits = _bits(seed, stream, step, index, math.prod(shape))
    return ((bits >> 8).float() * 2.0**-24).reshape(len(index), *shape)


def normal(seed: int, stream: RngStream, step: int, index: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """(len(index), *shape) float32 standard normal, one row per sample index (Box-Muller).

    Computed in float64: vectorised logarithms differ in the last bit with a value's place in
    memory, and rounding to float32 hides that.
    """
    n = math.prod(shape)
    pairs = (n + 1) // 2
    unit = (_bits(seed, stream, step, index, 2 * pairs).double() + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(unit[:, :pairs]))
    angle = (2.0 * math.pi) * unit[:, pairs:]
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :n].float().reshape(len(index), *shape)


def _bits(seed: int, stream: RngStream, step: int, index: Tensor, n: int) -> Tensor:
    """(len(index), n) int64 holding 32 random bits each; sample indices and steps below 2^32, seeds below 2^64.

    Raises ValueError for other seeds and steps: cut to size, they would draw what another one draws.
    """
    if not 0 <= seed <= LARGEST_SEED or not 0 <= step <= _MASK:
        raise ValueError(f"seed {seed}, step {step}: not between 0 and 2^64 - 1, and 2^32 - 1")
    if index.is_cuda and _one_launch_will_do(index.device):
        from discli.runtime import rng_kernel

        return rng_kernel.bits(seed, int(stream), step, index, n)
    return _bits_by_operations(seed, stream, step, index, n)


@cache
def _one_launch_will_do(device: torch.device) -> bool:
    """Whether Triton works on ``device`` and draws the very numbers: once a process, a few of them are compared."""
    try:
        from discli.runtime import rng_kernel

        index = torch.tensor([0, 1, 2**31, 2**32 - 1], device=device)
        one = rng_kernel.bits(LARGEST_SEED, int(RngStream.NOISE), _MASK, index, 1030)
    except Exception:  # no Triton, no compiler for its launcher, a GPU that is too old: all fail in their own ways
        return False
    return torch.equal(one, _bits_by_operations(LARGEST_SEED, RngStream.NOISE, _MASK, index, 1030))


def _bits_by_operations(seed: int, stream: RngStream, step: int, index: Tensor, n: int) -> Tensor:
    """`_bits` in some 130 of PyTorch's operations, on any device."""
    blocks = torch.arange((n + 3) // 4, device=index.device)
    rows, columns = torch.meshgrid(index, blocks, indexing="ij")
    words = philox(
        (columns, rows, torch.full_like(rows, step), torch.full_like(rows, int(stream))),
        (seed & _MASK, (seed >> 32) & _MASK),
    )
    return torch.stack(words, dim=-1).reshape(len(index), -1)[:, :n]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four int64 tensors of 32-bit words in, four out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        hi0, lo0 = _multiply(c0, _M0)
        hi1, lo1 = _multiply(c2, _M1)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _multiply(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product; int64 wraps, which leaves the bits right."""
    product = word * constant
    return (product >> 32) & _MASK, product & _MASK


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """A shuffled range(n), int64, for one pass over the data; n below 2^32."""
    index = torch.arange(n)
    high, low = _bits(seed, RngStream.PERMUTATION, epoch, index, 2).unbind(1)
    # 62 random bits a key; the stable sort settles what little may tie.
    return torch.argsort((high >> 1 << 31) | (low >> 1), stable=True)
