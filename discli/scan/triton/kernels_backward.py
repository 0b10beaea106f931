"""Triton kernels of the backward pass: gate, scan, convolution and the sums over programs' partial results.

No atomics: what several programs contribute to is written apart and added in a fixed order by
`sum_partials`, so two runs give the same bits.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 - Triton's tuples grow by +, it knows no unpacking.

import triton
import triton.language as tl

from discli.scan.triton.kernels import LOG2E, sigmoid, softplus, where_valid

# A program takes 32 channels of one direction of one sample, and GROUP steps at a time: the states
# and decays of a group stay in registers between recomputing them and walking back over them.
BLOCK = 32
GROUP = 4
SCAN_WARPS = 1


@triton.jit(do_not_specialize=["L", "rows"])
def gate_backward(
    dout_ptr, z_ptr, sum_ptr, dy_ptr, dz_ptr, L, E, rows, z_batch, z_step,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """out = sum * SiLU(z): the gradients of both factors, ``rows`` = B * L tokens."""
    blocks = tl.cdiv(E, BLOCK)
    pid = tl.program_id(0)
    e = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)[None, :]
    row = (pid // blocks) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (row < rows) & (e < E)
    sample = row // L  # in 32 bits: a division in 64 is a call
    z_row = sample.to(tl.int64) * z_batch + (row - sample * L) * z_step
    row = row.to(tl.int64)

    z = tl.load(z_ptr + z_row + e, mask=inside, other=0.0).to(STATE)
    dout = tl.load(dout_ptr + row * E + e, mask=inside, other=0.0).to(STATE)
    y = tl.load(sum_ptr + row * E + e, mask=inside, other=0.0).to(STATE)
    gate = sigmoid(z)
    tl.store(dy_ptr + row * E + e, (dout * z * gate).to(dy_ptr.dtype.element_ty), mask=inside)
    dz = dout * y * gate * (1.0 + z * (1.0 - gate))
    tl.store(dz_ptr + row * E + e, dz.to(dz_ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_x_and_draw(x_ptr, draw_ptr, first, sign, i, high, L, E, e, GROUP: tl.constexpr):
    """x and draw of GROUP steps from step i of the walk.

    A step that fills up a group and is no step of the sequence has delta 0 and changes nothing.
    """
    steps = ()
    for s in tl.static_range(GROUP):
        t = first + sign * (i + s)
        inside = where_valid((i + s < high) & (t >= 0) & (t < L), e, E)
        x = tl.load(x_ptr + (t * E + e), mask=inside, other=0.0)
        draw = tl.load(draw_ptr + (t * E + e), mask=inside, other=float("-inf"))
        steps = steps + ((x, draw),)
    return steps


@triton.jit
def load_B(BC_ptr, first, sign, i, high, L, n, N: tl.constexpr, GROUP: tl.constexpr):
    """B of the same steps."""
    steps = ()
    for s in tl.static_range(GROUP):
        t = first + sign * (i + s)
        in_row = where_valid((i + s < high) & (t >= 0) & (t < L), n, N)
        steps = steps + (tl.load(BC_ptr + t * (2 * N), mask=in_row, other=0.0),)
    return steps


@triton.jit
def recompute_step(x, draw, B, h, A_log2e, bias, STATE: tl.constexpr):
    """One forward step: its x, delta, softplus's derivative, decay and the state after it."""
    x = x.to(STATE)
    v = draw.to(STATE) + bias
    delta, u = softplus(v)
    derivative = tl.where(v >= 0.0, 1.0, u) / (1.0 + u)
    decay = tl.exp2(delta[:, None] * A_log2e)
    return x, delta, derivative, decay, decay * h + (delta * x)[:, None] * B[None, :]


@triton.jit(do_not_specialize=["L", "E", "batch"])
def scan_backward(
    dy_ptr, x_ptr, draw_ptr, BC_ptr, A_ptr, D_ptr, bias_ptr, states_ptr, scratch_ptr,
    dx_ptr, ddraw_ptr, dBC_ptr, dparams_ptr,
    L, E, batch,
    N: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """The gradient of one direction's scan for one sample and BLOCK channels, walking from its last step.

    With dh the gradient of h_t before it decays into step t - 1,
    dh = C dy + (decay * dh)_{t+1};  d(delta x) = dh . B;  d(delta A) = dh decay h_{t-1}.

    A chunk is walked forward from its stored state first, leaving the state before each group in
    ``scratch`` (which stays in cache); then group by group backward.

    Each change of layout, and so each sum, is a barrier that no load moves over: a group's numbers are
    asked for together before the first one, the next group's while the one before is computed, and B and
    C a step ahead.
    """
    blocks = tl.cdiv(E, BLOCK)
    pid = tl.program_id(0)
    block = pid % blocks
    sequence = (pid // blocks).to(tl.int64)
    direction = (pid // blocks) // batch
    e = block * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    in_block = e < E
    in_block_N = in_block[:, None]

    A_log2e = tl.load(A_ptr + direction * E * N + e[:, None] * N + n[None, :], mask=in_block_N, other=0.0) * LOG2E
    D = tl.load(D_ptr + direction * E + e, mask=in_block, other=0.0)
    bias = tl.load(bias_ptr + direction * E + e, mask=in_block, other=0.0)

    half = (L + 1) // 2
    first = direction * (2 * half - 1)
    sign = 1 - 2 * direction
    chunks = tl.cdiv(half, CHUNK)
    x_ptr += sequence * L * E
    draw_ptr += sequence * L * E
    dx_ptr += sequence * L * E
    ddraw_ptr += sequence * L * E
    dy_ptr += (sequence % batch) * L * E
    BC_ptr += sequence * L * (2 * N) + n
    dBC_ptr += (block * (2 * batch).to(tl.int64) + sequence) * L * (2 * N) + n
    states_ptr += sequence * (2 * chunks) * E * N + (n[None, :] // 4 * E + e[:, None]) * 4 + n[None, :] % 4
    scratch_ptr += pid.to(tl.int64) * (CHUNK // GROUP * BLOCK * N) + tl.arange(0, BLOCK)[:, None] * N + n[None, :]

    decayed_dh = tl.zeros([BLOCK, N], STATE)
    dA = tl.zeros([BLOCK, N], STATE)
    dD = tl.zeros([BLOCK], STATE)
    dbias = tl.zeros([BLOCK], STATE)
    for chunk_from_end in range(0, 2 * chunks):
        chunk = 2 * chunks - 1 - chunk_from_end
        low = chunk // chunks * half + chunk % chunks * CHUNK
        high = tl.minimum(low + CHUNK, (chunk // chunks + 1) * half)
        groups = tl.cdiv(high - low, GROUP)

        h = tl.load(states_ptr + chunk.to(tl.int64) * E * N, mask=in_block_N, other=0.0)
        tl.store(scratch_ptr, h)
        given = load_x_and_draw(x_ptr, draw_ptr, first, sign, low, high, L, E, e, GROUP)
        for group in range(0, groups - 1):
            i = low + group * GROUP
            ahead = load_x_and_draw(x_ptr, draw_ptr, first, sign, i + GROUP, high, L, E, e, GROUP)
            Bs = load_B(BC_ptr, first, sign, i, high, L, n, N, GROUP)
            for s in tl.static_range(GROUP):
                x, draw = given[s]
                _, _, _, _, h = recompute_step(x, draw, Bs[s], h, A_log2e, bias, STATE)
            tl.store(scratch_ptr + (group + 1) * (BLOCK * N), h)
            given = ahead
        tl.debug_barrier()

        for group_from_end in range(0, groups):
            group = groups - 1 - group_from_end
            i = low + group * GROUP
            # First, for Triton lays out what follows by it: after the others, everything is computed in two layouts.
            hs = (tl.load(scratch_ptr + group * (BLOCK * N)),)
            again = load_x_and_draw(x_ptr, draw_ptr, first, sign, i, high, L, E, e, GROUP)
            B_again = load_B(BC_ptr, first, sign, i, high, L, n, N, GROUP)
            dys = ()
            for s in tl.static_range(GROUP):
                t = first + sign * (i + s)
                inside = where_valid((i + s < high) & (t >= 0) & (t < L), e, E)
                dys = dys + (tl.load(dy_ptr + (t * E + e), mask=inside, other=0.0),)
            steps = ()
            for s in tl.static_range(GROUP):
                x, draw = again[s]
                x, delta, derivative, decay, after = recompute_step(x, draw, B_again[s], hs[s], A_log2e, bias, STATE)
                steps = steps + ((x, delta, derivative, decay),)
                hs = hs + (after,)

            for s in tl.static_range(GROUP - 1, -1, -1):
                t = first + sign * (i + s)
                valid = (i + s < high) & (t >= 0) & (t < L)
                inside, in_row = where_valid(valid, e, E), where_valid(valid, n, N)
                if s == GROUP - 1:
                    B = tl.load(BC_ptr + t * (2 * N), mask=in_row, other=0.0)
                    C = tl.load(BC_ptr + t * (2 * N) + N, mask=in_row, other=0.0)
                if s > 0:
                    t_next = t - sign
                    in_next = where_valid((i + s - 1 < high) & (t_next >= 0) & (t_next < L), n, N)
                    B_next = tl.load(BC_ptr + t_next * (2 * N), mask=in_next, other=0.0)
                    C_next = tl.load(BC_ptr + t_next * (2 * N) + N, mask=in_next, other=0.0)
                x, delta, derivative, decay = steps[s]
                dy = dys[s].to(STATE)

                dC = tl.sum(hs[s + 1] * dy[:, None], axis=0)
                dh = decayed_dh + dy[:, None] * C[None, :]
                dB = tl.sum(dh * (delta * x)[:, None], axis=0)
                ddelta_x = tl.sum(dh * B[None, :], axis=1)
                decayed_dh = dh * decay
                ddelta_A = decayed_dh * hs[s]
                dA += ddelta_A * delta[:, None]
                dv = (tl.sum(ddelta_A * A_log2e, axis=1) * (1.0 / LOG2E) + ddelta_x * x) * derivative
                dD += dy * x
                dbias += dv
                tl.store(dx_ptr + (t * E + e), (ddelta_x * delta + D * dy).to(dx_ptr.dtype.element_ty), mask=inside)
                tl.store(ddraw_ptr + (t * E + e), dv.to(ddraw_ptr.dtype.element_ty), mask=inside)
                tl.store(dBC_ptr + t * (2 * N), dB, mask=in_row)
                tl.store(dBC_ptr + t * (2 * N) + N, dC, mask=in_row)
                if s > 0:
                    B, C = B_next, C_next
        tl.debug_barrier()

    # Rows of (N + 2, E): dA state by state, then dD, then ddt_bias.
    dparams_ptr += ((sequence % batch) * 2 + direction) * (N + 2) * E + e
    tl.store(dparams_ptr[:, None] + n[None, :] * E, dA, mask=in_block_N)
    tl.store(dparams_ptr + N * E, dD, mask=in_block)
    tl.store(dparams_ptr + (N + 1) * E, dbias, mask=in_block)


@triton.jit
def conv_at(window, weights, bias, K: tl.constexpr):
    """The convolution at one token, and d SiLU / d input there; weights[j] is the tap j tokens away."""
    total = bias
    for j in tl.static_range(K):
        total += weights[j] * window[j]
    gate = sigmoid(total)
    return gate * (1.0 + total * (1.0 - gate))


@triton.jit(do_not_specialize=["L", "batch"])
def conv_backward(
    dout_ptr, x_ptr, weight_ptr, bias_ptr, dx_ptr, dparams_ptr, L, E, batch, x_batch, x_step,
    K: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Gradients of `conv_silu` for TOKENS tokens: one walk with the last K of everything in registers.

    The same window x[s - K + 1 .. s] gives the causal direction its value at s and the mirrored one
    its value at t = s - K + 1, which is also the token whose dx is then complete.
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
    dout_ptr += b * L * E
    mirror_ptr = dout_ptr + batch.to(tl.int64) * L * E
    dx_ptr += b * L * E

    zero = tl.zeros([BLOCK], STATE)
    bias_causal = tl.load(bias_ptr + e, mask=in_block, other=0.0)
    bias_mirror = tl.load(bias_ptr + E + e, mask=in_block, other=0.0)
    causal = ()
    mirror = ()
    xs = ()  # x[s], x[s - 1], ...
    for j in tl.static_range(K):
        tap = (K - 1 - j) * E + e
        causal = causal + (tl.load(weight_ptr + tap, mask=in_block, other=0.0),)
        mirror = mirror + (tl.load(weight_ptr + K * E + tap, mask=in_block, other=0.0),)
        before = low - 1 - j
        inside = where_valid(before >= 0, e, E)
        xs = xs + (tl.load(x_ptr + before * x_step + e, mask=inside, other=0.0).to(STATE),)
    d_causal = (zero,) * K  # the causal convolution's gradient at s, s - 1, ...
    d_mirror = (zero,) * K  # the mirrored one's at t, t - 1, ...
    dw_causal = (zero,) * K
    dw_mirror = (zero,) * K
    dbias_causal = zero
    dbias_mirror = zero

    for s in tl.range(low, high + K - 1, loop_unroll_factor=4):
        t = s - (K - 1)
        at_s, at_t = where_valid(s < L, e, E), where_valid(t >= 0, e, E)
        x = tl.load(x_ptr + s * x_step + e, mask=at_s, other=0.0).to(STATE)
        xs = (x,) + xs[: K - 1]
        dout = tl.load(dout_ptr + s * E + e, mask=at_s, other=0.0).to(STATE)
        d_causal = (dout * conv_at(xs, causal, bias_causal, K),) + d_causal[: K - 1]
        dout = tl.load(mirror_ptr + t * E + e, mask=at_t, other=0.0).to(STATE)
        d_mirror = (dout * conv_at(xs[::-1], mirror, bias_mirror, K),) + d_mirror[: K - 1]

        # Neighbouring programs also see the tokens around the edges; each counts only its own.
        own_causal = tl.where(s < high, d_causal[0], zero)
        own_mirror = tl.where(t >= low, d_mirror[0], zero)
        dbias_causal += own_causal
        dbias_mirror += own_mirror
        dx = zero
        for j in tl.static_range(K):
            dx += causal[j] * d_causal[K - 1 - j] + mirror[j] * d_mirror[j]
        new_causal = ()
        new_mirror = ()
        for j in tl.static_range(K):
            new_causal = new_causal + (dw_causal[j] + own_causal * xs[j],)
            new_mirror = new_mirror + (dw_mirror[j] + own_mirror * xs[K - 1 - j],)
        dw_causal = new_causal
        dw_mirror = new_mirror
        tl.store(dx_ptr + t * E + e, dx.to(dx_ptr.dtype.element_ty), mask=where_valid(t >= low, e, E))

    # Rows of (K + 1, E): the weight's K taps, then the bias.
    dparams_ptr += (b * tiles + pid // blocks % tiles) * (2 * (K + 1)) * E + e
    for j in tl.static_range(K):
        tl.store(dparams_ptr + (K - 1 - j) * E, dw_causal[j], mask=in_block)
        tl.store(dparams_ptr + (2 * K - j) * E, dw_mirror[j], mask=in_block)
    tl.store(dparams_ptr + K * E, dbias_causal, mask=in_block)
    tl.store(dparams_ptr + (2 * K + 1) * E, dbias_mirror, mask=in_block)


@triton.jit(do_not_specialize=["parts"])
def sum_partials(partials_ptr, out_ptr, parts, size, PARTS: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr):
    """out = the sum of (parts, size) over its first axis, always in the same order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    in_block = i < size
    total = tl.zeros([1, BLOCK], STATE)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)[:, None]
        loaded = tl.load(partials_ptr + part * size.to(tl.int64) + i, mask=(part < parts) & in_block, other=0.0)
        total += tl.sum(loaded, axis=0, keep_dims=True)
    tl.store(out_ptr + i, total.to(out_ptr.dtype.element_ty), mask=in_block)
