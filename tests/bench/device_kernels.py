"""Three small Triton kernels that tell a GPU's own figures: exps a clock, a dependent load, a barrier."""
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def exps(out_ptr, turns, BLOCK: tl.constexpr):
    """``turns`` times 8 independent exps of each number of the block: no memory in the loop."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = -(i % 7).to(tl.float32)
    b, c, d = a - 0.1, a - 0.2, a - 0.3
    for _ in range(0, turns):
        a, b, c, d = tl.exp2(-a), tl.exp2(-b), tl.exp2(-c), tl.exp2(-d)
        a, b, c, d = tl.exp2(-a), tl.exp2(-b), tl.exp2(-c), tl.exp2(-d)
    tl.store(out_ptr + i, a + b + c + d)


@triton.jit
def chase(next_ptr, out_ptr, turns):
    """Loads of which each one's address is the answer of the one before."""
    at = tl.program_id(0)
    for _ in range(0, turns):
        at = tl.load(next_ptr + at)
    tl.store(out_ptr, at)


@triton.jit
def barriers(out_ptr, turns):
    """Barriers of a program of one warp."""
    count = tl.program_id(0)
    for _ in range(0, turns):
        tl.debug_barrier()
        count += 1
    tl.store(out_ptr, count)
