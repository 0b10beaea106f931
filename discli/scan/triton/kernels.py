"""Triton kernels of the forward pass: convolution, bidirectional scan, gate. Launched by `discli.scan.triton.backend`.

Imported only when that backend runs, because importing it imports Triton. Both directions are one
launch; direction 1 reads and writes the same memory at mirrored times, so nothing is flipped.

NO GPU HAS RUN THESE KERNELS YET. Three figures are told apart, and none stands for another:

- *bound*: work counted here or in machine code, over a rate of the hardware; no kernel is faster;
- *modelled*: by a simulator of one multiprocessor that issues the machine code with assumed latencies; never
  compared with a GPU, so that its ratios mean more than its milliseconds;
- *measured*: nothing yet; `python -m tests.bench.device` does it.

With U = B L E s bytes for one activation of s-byte numbers, B C E N 8 bytes for the C states kept of every sequence,
and S = 2 B L E the channel-steps of both directions (`python -m tests.bench.triton_static` evaluates all):

    bytes, forward    conv 3 U, x_proj and dt_proj 4 U, scan 9 U (8 when nothing is kept)  = 16 U + states
    bytes, backward   gate 5 U, scan 10 U, products 10 U, conv 4 U                         = 29 U + states
                      and E/32 partial sums of dB and dC, written and read                 + E/32 B L N 32
    exps              forward S (N + 2.5), backward S (1.875 (N + 1) + 1.5): most steps are recomputed twice
    instructions      of the two scans, from sm_90 machine code: 157 forward and 526 backward per 512 states
    floor             3 U forward (x, z, y), 5 U backward (dy, x, z, dx, dz): no x', no delta in memory

    bounds, ms, on 4.3 TB/s, 790 bf16 TFLOP/s, 132 multiprocessors at 1.83 GHz (bf16, N = 16, batch 32):
                                    bytes   floor   matrix products   exps    instructions   modelled, the scan alone
    DiS-L/2, 256 px    forward      0.145   0.024   0.014             0.162   0.172          0.21
    L = 258, E = 2048  backward     0.310   0.039   0.027             0.292   0.575          1.05
    DiS-H/2, 512 px    forward      0.850   0.141   0.114             0.966   1.024          1.5
    L = 1026, E = 3072 backward     1.835   0.235   0.229             1.742   3.430          6.3

So the traffic is 6 to 8 times the floor of one impossible kernel, and what the scans wait for is neither bytes nor
instructions but latency: of loads, and backward of the barriers between them. Hence loads a step or a group ahead,
though that takes more instructions. Counted for sm_90 per 512 states, in brackets modelled ms at DiS-L/2:

    forward, 64 channels a program of 2 warps, 128 registers
      as it is, Triton 3.8: x, z, B and C a step ahead               142 and 172, 21 and 27 spills of a step (0.21)
      as it is, 3.6 and 3.7: x and z a step ahead                    129 and 156, 0 and 1 spill (0.23)
      the state as one tensor of four axes, only x ahead, 3.8        124 and 151 (0.25)
      the same, 3.6, which lays it out with barriers and spills      172 and 211 (0.34)
      one channel a lane                                             144 and 163
      B and C in bf16 (unpacked by every channel)                    152 and 173
    backward, 32 channels a program of 1 warp, groups of 4 steps, 255 registers
      as it is                                                       418 + 0.875 * 123, 28 barriers a turn (1.05)
      each step's loads beside their use                             410 + 0.875 * 112 (1.53; 1.95 with 3.6)
      64 channels, 2 warps                                           444 + 0.875 * 111 and 18 barriers a step
      groups of 2                                                    396, but twice the states to cache
      at most 200 registers                                          450, 132 of 1798 of them spills

`discli.scan.cuda` walks back with 423 instructions and 3 shuffles a step instead of 40 (modelled 0.71).
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 - Triton's tuples grow by +, it knows no unpacking.

import triton
import triton.language as tl
from packaging.version import Version

LOG2E = tl.constexpr(1.4426950408889634)

# One program of the scan is two warps, one for each direction, of 32 lanes; a lane walks
# CHANNELS_PER_LANE channels with all their states in its registers.
LANES = 32
CHANNELS_PER_LANE = 2
SCAN_WARPS = 2
# Lets 8 programs share a multiprocessor instead of 6; at N = 16 that spills 2 of a loop's 604 instructions.
SCAN_REGISTERS = 128


def bc_ahead() -> bool:
    """Whether the forward scan asks for B and C a step ahead too: in 128 registers, older compilers spill them."""
    return Version(triton.__version__) >= Version("3.8")


@triton.jit
def softplus(v):
    """softplus(v), and u = exp(-|v|), of which the derivative is made.

    log1p is a polynomial on [0, 1] (relative error 1.3e-7 in float32): log(1 + u) would lose a
    delta of 1e-6 to rounding, and takes more instructions.
    """
    u = tl.exp2(tl.abs(v) * -LOG2E)
    if v.dtype == tl.float64:
        log1p_u = tl.log(1.0 + u)
    else:
        p = u * 0.005232693627476692 - 0.02950523979961872
        p = p * u + 0.07822596281766891
        p = p * u - 0.13663247227668762
        p = p * u + 0.19106008112430573
        p = p * u - 0.2484298199415207
        p = p * u + 0.3331909775733948
        p = p * u - 0.4999949336051941
        p = p * u + 0.9999999403953552
        log1p_u = u * p
    return tl.maximum(v, 0.0) + log1p_u, u


@triton.jit
def sigmoid(v):
    return 1.0 / (1.0 + tl.exp2(v * -LOG2E))


@triton.jit
def where_valid(valid, index, end):
    """``index < end``, and nowhere if not ``valid``: a mask made of a comparison of blocks.

    Triton 3.9's interpreter takes no mask that began as a single truth value.
    """
    return index < tl.where(valid, end, 0)


@triton.jit(do_not_specialize=["L", "batch"])
def conv_silu(
    x_ptr, weight_ptr, bias_ptr, out_ptr, L, E, batch, x_batch, x_step,
    K: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """out[0] = SiLU(causal depthwise conv of x), out[1] = SiLU(anti-causal one), for TOKENS tokens.

    x is read once, with the last K of it in registers: the window x[s - K + 1 .. s] gives the causal
    direction its value at s and the mirrored one its value at s - K + 1.
    """
    blocks = tl.cdiv(E, BLOCK)
    tiles = tl.cdiv(L, TOKENS)
    pid = tl.program_id(0)
    e = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_block = e < E
    low = (pid // blocks % tiles) * TOKENS
    high = tl.minimum(low + TOKENS, L)
    b = (pid // blocks // tiles).to(tl.int64)
    x_ptr += b * x_batch
    causal_ptr = out_ptr + b * L * E
    mirror_ptr = causal_ptr + batch.to(tl.int64) * L * E

    bias_causal = tl.load(bias_ptr + e, mask=in_block, other=0.0)
    bias_mirror = tl.load(bias_ptr + E + e, mask=in_block, other=0.0)
    w_causal = ()  # the tap j tokens away
    w_mirror = ()
    xs = ()  # x[s], x[s - 1], ...
    for j in tl.static_range(K):
        tap = (K - 1 - j) * E + e
        w_causal = w_causal + (tl.load(weight_ptr + tap, mask=in_block, other=0.0),)
        w_mirror = w_mirror + (tl.load(weight_ptr + K * E + tap, mask=in_block, other=0.0),)
        before = low - 1 - j
        x = tl.load(x_ptr + before * x_step + e, mask=where_valid(before >= 0, e, E), other=0.0)
        xs = xs + (x.to(STATE),)
    for s in tl.range(low, high + K - 1, loop_unroll_factor=4):
        t = s - (K - 1)
        x = tl.load(x_ptr + s * x_step + e, mask=where_valid(s < L, e, E), other=0.0)
        xs = (x.to(STATE),) + xs[: K - 1]
        causal = bias_causal
        mirror = bias_mirror
        for j in tl.static_range(K):
            causal += w_causal[j] * xs[j]
            mirror += w_mirror[j] * xs[K - 1 - j]
        causal = (causal * sigmoid(causal)).to(out_ptr.dtype.element_ty)
        mirror = (mirror * sigmoid(mirror)).to(out_ptr.dtype.element_ty)
        tl.store(causal_ptr + s * E + e, causal, mask=where_valid(s < high, e, E))
        tl.store(mirror_ptr + t * E + e, mirror, mask=where_valid(t >= low, e, E))


@triton.jit
def load_token(ptr, t, step, L, e, E, CHANNELS: tl.constexpr, LANES: tl.constexpr):
    """One number of each of a lane's channels at token t, ``step`` numbers behind the one before; 0 outside."""
    at_t = (t >= 0) & (t < L)
    values = ()
    for c in tl.static_range(CHANNELS):
        inside = at_t & (e + c * LANES < E)
        values = values + (tl.load(ptr + (t * step + c * LANES), mask=inside, other=0.0),)
    return values


@triton.jit
def load_row(row_ptr, t, L, FIRST: tl.constexpr, N: tl.constexpr):
    """Numbers FIRST to FIRST + N of token t's row of B and C, four to a lane.

    Outside the sequence those of the nearest token: garbage might be NaN, and 0 * NaN is no zero.
    """
    row = row_ptr + tl.minimum(tl.maximum(t, 0), L - 1) * (2 * N)
    quads = ()
    for q in tl.static_range(N // 4):
        quads = quads + (tl.load(row + (FIRST + 4 * q)),)
    return quads


@triton.jit
def walk_half(
    x, draw, B, C, h, A, D, bias, e,
    x_ptr, draw_ptr, BC_ptr, z_ptr, sum_ptr, y_ptr, states_ptr, first, sign, L, E, z_step,
    SECOND: tl.constexpr, SAVE: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr, STATE: tl.constexpr,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, BC_AHEAD: tl.constexpr,
):  # fmt: skip
    """Half of the steps of both directions; x and draw (and B and C) are the first one's.

    In the first half each direction leaves its y in ``sum_ptr``. In the second it finds there what
    the other direction left at the same token, adds its own and gates.

    Each step asks for the next one's numbers before it does its own work, and the loop is not unrolled:
    ptxas moves loads to where they are used, but never over the end of a turn.
    """
    QUADS: tl.constexpr = N // 4
    half = (L + 1) // 2
    start = half * SECOND
    z, other = x, x
    if SECOND:
        z = load_token(z_ptr, first + sign * start, z_step, L, e, E, CHANNELS, LANES)
        other = load_token(sum_ptr, first + sign * start, E, L, e, E, CHANNELS, LANES)
    for chunk in range(0, tl.cdiv(half, CHUNK)):
        if SAVE:
            slot = states_ptr + (chunk + SECOND * tl.cdiv(half, CHUNK)).to(tl.int64) * E * N
            for c in tl.static_range(CHANNELS):
                for q in tl.static_range(QUADS):
                    quad = slot + (q * E + c * LANES) * 4
                    tl.store(quad, h[c * QUADS + q], mask=e + c * LANES < E)
        low = start + chunk * CHUNK
        for i in range(low, tl.minimum(low + CHUNK, start + half)):
            t = first + sign * i
            next_x = load_token(x_ptr, t + sign, E, L, e, E, CHANNELS, LANES)
            next_draw = load_token(draw_ptr, t + sign, E, L, e, E, CHANNELS, LANES)
            next_z, next_other = z, other
            if SECOND:
                next_z = load_token(z_ptr, t + sign, z_step, L, e, E, CHANNELS, LANES)
                next_other = load_token(sum_ptr, t + sign, E, L, e, E, CHANNELS, LANES)
            if BC_AHEAD:
                next_B = load_row(BC_ptr, t + sign, L, 0, N)
                next_C = load_row(BC_ptr, t + sign, L, N, N)
            else:
                B = load_row(BC_ptr, t, L, 0, N)
                C = load_row(BC_ptr, t, L, N, N)
                next_B, next_C = B, C

            new_h = ()
            for c in tl.static_range(CHANNELS):
                x_c = x[c].to(STATE)
                delta, _ = softplus(draw[c].to(STATE) + bias[c])
                delta_x = delta * x_c
                products = tl.zeros_like(h[0])
                for q in tl.static_range(QUADS):
                    h_q = tl.exp2(delta * A[c * QUADS + q]) * h[c * QUADS + q] + delta_x * B[q]
                    new_h = new_h + (h_q,)
                    products += h_q * C[q]
                y = tl.sum(products, axis=1, keep_dims=True) + D[c] * x_c
                inside = (t >= 0) & (t < L) & (e + c * LANES < E)
                if SECOND:
                    y += other[c].to(STATE)
                    gate = z[c].to(STATE)
                    gated = (y * gate * sigmoid(gate)).to(y_ptr.dtype.element_ty)
                    tl.store(y_ptr + (t * E + c * LANES), gated, mask=inside)
                if SAVE or not SECOND:
                    tl.store(sum_ptr + (t * E + c * LANES), y.to(sum_ptr.dtype.element_ty), mask=inside)
            h = new_h
            x, draw, B, C, z, other = next_x, next_draw, next_B, next_C, next_z, next_other
    return x, draw, B, C, h


@triton.jit(do_not_specialize=["L", "E", "batch", "z_batch", "z_step"])
def scan_forward(
    x_ptr, draw_ptr, BC_ptr, z_ptr, A_ptr, D_ptr, bias_ptr, sum_ptr, y_ptr, states_ptr,
    L, E, batch, z_batch, z_step,
    N: tl.constexpr, LANES: tl.constexpr, CHANNELS_PER_LANE: tl.constexpr,
    CHUNK: tl.constexpr, SAVE: tl.constexpr, STATE: tl.constexpr, BC_AHEAD: tl.constexpr,
):  # fmt: skip
    """Both directions' scans, their sum and the gate, for one sample and LANES * CHANNELS_PER_LANE channels.

    The two directions walk towards each other, cross in the middle and gate on the way out, so each
    token's two halves of y meet in one read and no second kernel is needed. For odd L the mirrored
    direction begins with an empty step.

    The state is a tuple of (2 * LANES, 4) tensors, N / 4 for each of a lane's channels: rows are the
    threads, and four neighbouring states make one 16-byte load of B or C. Of two axes Triton has but one
    way to lay them out; of the four axes that one tensor would need, 3.3 to 3.6 choose one that spills.
    """
    blocks = tl.cdiv(E, LANES * CHANNELS_PER_LANE)
    pid = tl.program_id(0)
    b = (pid // blocks).to(tl.int64)

    thread = tl.arange(0, 2 * LANES)[:, None]
    direction = thread // LANES
    e = (pid % blocks) * (LANES * CHANNELS_PER_LANE) + thread % LANES
    n = tl.arange(0, 4)[None, :]

    A = ()
    h = ()
    D = ()
    bias = ()
    for c in tl.static_range(CHANNELS_PER_LANE):
        in_block = e + c * LANES < E
        channel = direction * E + e + c * LANES
        D = D + (tl.load(D_ptr + channel, mask=in_block, other=0.0),)
        bias = bias + (tl.load(bias_ptr + channel, mask=in_block, other=0.0),)
        for q in tl.static_range(N // 4):
            A = A + (tl.load(A_ptr + (channel * N + 4 * q + n), mask=in_block, other=0.0) * LOG2E,)
            h = h + (tl.zeros([2 * LANES, 4], STATE),)

    half = (L + 1) // 2
    first = direction * (2 * half - 1)
    sign = 1 - 2 * direction
    sequence = direction * batch + b
    x_ptr += sequence * L * E + e
    draw_ptr += sequence * L * E + e
    BC_ptr += sequence * L * (2 * N) + n
    states_ptr += sequence * 2 * tl.cdiv(half, CHUNK) * E * N + e * 4 + n
    z_ptr += b * z_batch + e
    sum_ptr += b * L * E + e
    y_ptr += b * L * E + e

    x = load_token(x_ptr, first, E, L, e, E, CHANNELS_PER_LANE, LANES)
    draw = load_token(draw_ptr, first, E, L, e, E, CHANNELS_PER_LANE, LANES)
    B = load_row(BC_ptr, first, L, 0, N)
    C = load_row(BC_ptr, first, L, N, N)
    x, draw, B, C, h = walk_half(
        x, draw, B, C, h, A, D, bias, e,
        x_ptr, draw_ptr, BC_ptr, z_ptr, sum_ptr, y_ptr, states_ptr, first, sign, L, E, z_step,
        False, SAVE, CHUNK, N, STATE, CHANNELS_PER_LANE, LANES, BC_AHEAD,
    )  # fmt: skip
    # What one direction's warp stored, the other's is about to load.
    tl.debug_barrier()
    walk_half(
        x, draw, B, C, h, A, D, bias, e,
        x_ptr, draw_ptr, BC_ptr, z_ptr, sum_ptr, y_ptr, states_ptr, first, sign, L, E, z_step,
        True, SAVE, CHUNK, N, STATE, CHANNELS_PER_LANE, LANES, BC_AHEAD,
    )  # fmt: skip
