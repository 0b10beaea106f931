"""Kernels of the forward pass: convolution with x_proj, then the scan, and the gate after both directions."""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu.compiler import jit
from discli.scan.cpu.job import BLOCK, CHUNK, GROUP, PIECE, SPAN, STRIP
from discli.scan.cpu.lanes import FLOAT, VECTOR, fma, load, splat, store
from discli.scan.cpu.math import sigmoid, softplus_and_slope
from discli.scan.cpu.matmul import matmul
from discli.scan.cpu.recurrence import PAIR, ROW, advance
from discli.scan.cpu.rows import AHEAD, fetch_row, in_row, load_row, place_of_sums, row_before, store_row

TILE = CHUNK * ROW


@jit
def convolve_strip(job, x, channel, first, rows, out, out_step):
    """The causal depthwise convolution of one vector of channels over ``rows`` steps, before SiLU.

    ``x`` is where step 0 lies, ``channel`` the offset of these channels in a row of floats.
    """
    if channel >= job.row_vectors * VECTOR:  # beyond the last channel
        for t in range(rows):
            store(out + t * out_step, splat(0.0))
        return
    row, bias = job.width * FLOAT, load(job.conv_bias + channel)
    weight, step_size = job.conv_weight + channel, job.x_step
    if job.taps == 4:  # Mamba's: the last inputs stay in registers
        w0, w1, w2, w3 = load(weight), load(weight + row), load(weight + 2 * row), load(weight + 3 * row)
        x0 = row_before(job, x, step_size, channel, first - 3)
        x1 = row_before(job, x, step_size, channel, first - 2)
        x2 = row_before(job, x, step_size, channel, first - 1)
        for t in range(rows):
            x3 = load_row(job, x + (first + t) * step_size, channel)
            store(out + t * out_step, fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, bias)))))
            x0, x1, x2 = x1, x2, x3
        return
    for t in range(rows):
        total = bias
        for tap in range(max(0, job.taps - 1 - first - t), job.taps):
            x_then = load_row(job, x + (first + t - job.taps + 1 + tap) * step_size, channel)
            total = fma(load(weight + tap * row), x_then, total)
        store(out + t * out_step, total)


@jit
def convolve(job, work, task):
    """One piece of one sample: x' = SiLU(conv(x)) and, in the forward pass, (dt, B, C) = x_proj x'."""
    pieces = (work.steps + PIECE - 1) // PIECE
    place, begin = task // pieces, task % pieces * PIECE
    slot = work.first_slot + place
    rows = min(PIECE, work.steps - begin)
    row, columns = job.width * FLOAT, job.columns * FLOAT
    first, sample = work.first_step + begin, work.first_sample + place
    x = job.x + sample * job.x_sample
    inner = job.inner + slot * job.inner_sample + begin * row
    for strip in range(0, rows, STRIP):
        steps, here = min(STRIP, rows - strip), inner + strip * row
        for channel in range(0, row, VECTOR):
            convolve_strip(job, x, channel, first + strip, steps, here + channel, row)
            for t in range(steps):
                conv = load(here + t * row + channel)
                store(here + t * row + channel, conv * sigmoid(conv))
    if not job.is_backward_pass:  # that one has kept it
        projected = job.projected + sample * job.projected_sample + first * columns
        weight, vectors = job.x_proj_in, columns // VECTOR
        matmul(inner, row, FLOAT, weight, columns, VECTOR, projected, columns, VECTOR, rows, vectors, job.width, 0)


@jit
def step_sizes(job, projected, first_channel, vectors, rows, raw):
    """dt_proj before bias and softplus, to the tile at ``raw``."""
    columns, row = job.columns * FLOAT, job.width * FLOAT
    weight = job.dt_in + first_channel
    matmul(projected, columns, FLOAT, weight, row, VECTOR, raw, ROW, VECTOR, rows, vectors, job.rank, 0)


@jit
def load_states(job, sample, step, first_vector, vectors, state):
    """The state before ``step``, the first of a chunk: zero at the start, else as it was saved."""
    size = vectors * job.states * VECTOR
    saved = job.saved + sample * job.saved_sample
    saved += ((step // CHUNK - 1) * job.vectors + first_vector) * job.states * VECTOR
    for offset in range(0, size, VECTOR):
        store(state + offset, splat(0.0) if step == 0 else load(saved + offset))


@jit
def save_states(job, sample, step, first_vector, vectors, state):
    size = vectors * job.states * VECTOR
    saved = job.saved + sample * job.saved_sample
    saved += ((step // CHUNK - 1) * job.vectors + first_vector) * job.states * VECTOR
    for offset in range(0, size, VECTOR):
        store(saved + offset, load(state + offset))


@jit
def scan(job, work, task, scratch):
    """One group of channels of one sample, over one chunk."""
    groups = (job.vectors + GROUP - 1) // GROUP
    place, first_vector = task // groups, task % groups * GROUP
    slot, sample, first_channel = work.first_slot + place, work.first_sample + place, first_vector * VECTOR
    vectors = min(GROUP, job.vectors - first_vector)
    columns, row, per_vector = job.columns * FLOAT, job.width * FLOAT, job.states * VECTOR
    projected = job.projected + sample * job.projected_sample + work.first_step * columns
    inner = job.inner + slot * job.inner_sample + first_channel
    delta, source, y, state = scratch, scratch + TILE, scratch + 2 * TILE, scratch + 3 * TILE

    load_states(job, sample, work.first_step, first_vector, vectors, state)
    step_sizes(job, projected, first_channel, vectors, work.steps, delta)
    for t in range(work.steps):
        for v in range(vectors):
            channel, at = first_channel + v * VECTOR, t * ROW + v * VECTOR
            x = load(inner + t * row + v * VECTOR)
            delta_t, _ = softplus_and_slope(load(delta + at) + load(job.dt_bias + channel))
            store(delta + at, delta_t)
            store(source + at, delta_t * x)
            store(y + at, load(job.skip + channel) * x)
    rate = job.decay_rate + first_vector * per_vector
    for begin in range(0, work.steps, SPAN):
        rows, B_rows = min(SPAN, work.steps - begin), projected + begin * columns + job.rank_columns * FLOAT
        for block in range(0, vectors, BLOCK):
            at, states = begin * ROW + block * VECTOR, block * per_vector
            for n in range(0, job.states, PAIR):
                B, here = B_rows + n * FLOAT, states + n * VECTOR
                C, h = B + job.states * FLOAT, state + here
                advance(delta + at, source + at, y + at, 0, 0, 0, B, C, columns, rate + here, h, h, per_vector, rows)
    write_output(job, work, place, first_channel, in_row(job, first_vector, vectors), y)
    if work.first_step + work.steps < job.length:
        save_states(job, sample, work.first_step + work.steps, first_vector, vectors, state)


@jit
def write_output(job, work, place, first_channel, vectors, y):
    """The first direction leaves its y, the second adds its own and gates the sum with SiLU(z)."""
    sample, size = work.first_sample + place, vectors * VECTOR
    sums = job.y_sum + place_of_sums(job, work, place) * job.y_sum_sample + first_channel
    for t in range(work.steps):
        step = work.first_step + t
        sum_row = sums + step * job.y_sum_step
        out, z_row = (
            job.y + sample * job.y_sample + step * job.y_step,
            job.z + sample * job.z_sample + step * job.z_step,
        )
        fetch_row(sum_row + AHEAD * job.y_sum_step, size)
        if job.is_last_direction:
            fetch_row(z_row + AHEAD * job.z_step + (first_channel >> job.is_bf16), size >> job.is_bf16)
        for at in range(0, size, VECTOR):
            y_t = load(y + t * ROW + at)
            if job.is_last_direction:
                z = load_row(job, z_row, first_channel + at)
                store_row(job, out, first_channel + at, (load(sum_row + at) + y_t) * (z * sigmoid(z)))
            else:
                store(sum_row + at, y_t)
