"""Philox's bits in one launch, where a GPU would have 130: the same numbers as `discli.runtime.rng.philox` makes.

Imported only for tensors on CUDA, because importing it imports Triton.
"""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl

_BLOCK = 256  # of Philox's counters, four numbers each


def bits(seed: int, stream: int, step: int, index: torch.Tensor, n: int) -> torch.Tensor:
    """(len(index), n) int64 holding 32 random bits each; see `discli.runtime.rng`."""
    out = index.new_empty(len(index), n)
    if out.numel() == 0:
        return out
    # Through a signed 32-bit integer each, so that one compiled kernel serves all seeds and steps.
    seed_low, seed_high, step = (word - (word >> 31 << 32) for word in (seed & 0xFFFFFFFF, seed >> 32, step))
    with torch.cuda.device(index.device) if index.is_cuda else torch.no_grad():
        _bits[(len(index), triton.cdiv(n, 4 * _BLOCK))](
            index.contiguous(), out, n, step, int(stream), seed_low, seed_high, BLOCK=_BLOCK
        )
    return out


@triton.jit(do_not_specialize=["n", "step", "stream", "seed_low", "seed_high"])
def _bits(index_ptr, out_ptr, n, step, stream, seed_low, seed_high, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.uint32)
    c0, c1 = column.to(tl.uint32), tl.load(index_ptr + row).to(tl.uint32) + zero
    c2, c3 = step.to(tl.uint32) + zero, stream.to(tl.uint32) + zero
    k0, k1 = seed_low.to(tl.uint32) + zero, seed_high.to(tl.uint32) + zero
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, zero + 0xD2511F53), c0 * (zero + 0xD2511F53)
        high1, low1 = tl.umulhi(c2, zero + 0xCD9E8D57), c2 * (zero + 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    at = out_ptr + row * n + 4 * column
    tl.store(at, c0.to(tl.int64), mask=4 * column < n)
    tl.store(at + 1, c1.to(tl.int64), mask=4 * column + 1 < n)
    tl.store(at + 2, c2.to(tl.int64), mask=4 * column + 2 < n)
    tl.store(at + 3, c3.to(tl.int64), mask=4 * column + 3 < n)
