"""Kernels of the forward pass: convolution with x_proj, then both directions' scan and the gate."""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu_job import CHUNK, GROUP
from discli.scan.cpu_lanes import FLOAT, VECTOR, fma, jit, load, load_broadcast, splat, store
from discli.scan.cpu_math import exp2_nonpositive, sigmoid, softplus_and_slope
from discli.scan.cpu_matmul import matmul

TILE = CHUNK * VECTOR  # bytes of one vector of channels over a chunk
TILES = GROUP * TILE


@jit
def convolution(job, x_column, channel, step):
    """The causal depthwise convolution of one vector of channels at one step, before SiLU.

    ``x_column`` is where step 0 of these channels lies, ``channel`` their offset in a row.
    """
    row = job.width * FLOAT
    total = load(job.conv_bias + channel)
    for tap in range(max(0, job.taps - 1 - step), job.taps):
        x = load(x_column + (step - job.taps + 1 + tap) * job.x_step)
        total = fma(load(job.conv_weight + tap * row + channel), x, total)
    return total


@jit
def convolve(job, work, task):
    """One chunk of one sample: x' = SiLU(conv(x)) and, in the forward pass, (dt, B, C) = x_proj x'."""
    chunks = (work.steps + CHUNK - 1) // CHUNK
    slot, first = task // chunks, task % chunks * CHUNK
    rows = min(CHUNK, work.steps - first)
    row = job.width * FLOAT
    x = job.x + (work.first_sample + slot) * job.x_sample
    inner = job.inner + slot * job.inner_sample + first * row
    for t in range(rows):
        for channel in range(0, row, VECTOR):
            conv = convolution(job, x + channel, channel, work.first_step + first + t)
            store(inner + t * row + channel, conv * sigmoid(conv))
    if not job.is_backward_pass:  # which has kept this
        columns = job.columns * FLOAT
        projected = job.projected + (work.first_sample + slot) * job.projected_sample
        projected += (work.first_step + first) * columns
        into, out_of = job.x_proj_in, columns // VECTOR
        matmul(inner, row, FLOAT, into, columns, VECTOR, projected, columns, VECTOR, rows, out_of, job.width, 0)


@jit
def step_sizes(job, projected, first_channel, vectors, rows, raw):
    """dt_proj before bias and softplus, one tile per vector of channels at ``raw``."""
    columns, row = job.columns * FLOAT, job.width * FLOAT
    weight = job.dt_in + first_channel
    matmul(projected, columns, FLOAT, weight, row, VECTOR, raw, VECTOR, TILE, rows, vectors, job.rank, 0)


@jit
def scan_tile(delta, source, y, B_rows, C_rows, row_stride, rate, state, states, rows):
    """Runs the recurrence of one vector of channels over a tile and adds C_t . h_t to y.

    Two states at a time stay in registers while the loop walks the steps. source = delta x'.
    """
    for n in range(0, states, 2):
        rate0, rate1 = load(rate + n * VECTOR), load(rate + (n + 1) * VECTOR)
        h0, h1 = load(state + n * VECTOR), load(state + (n + 1) * VECTOR)
        for t in range(rows):
            here = t * VECTOR
            B, C = B_rows + t * row_stride + n * FLOAT, C_rows + t * row_stride + n * FLOAT
            delta_t, source_t = load(delta + here), load(source + here)
            h0 = fma(exp2_nonpositive(delta_t * rate0), h0, source_t * load_broadcast(B))
            h1 = fma(exp2_nonpositive(delta_t * rate1), h1, source_t * load_broadcast(B + FLOAT))
            y_t = fma(h0, load_broadcast(C), load(y + here))
            store(y + here, fma(h1, load_broadcast(C + FLOAT), y_t))
        store(state + n * VECTOR, h0)
        store(state + (n + 1) * VECTOR, h1)


@jit
def load_states(job, sample, step, first_vector, vectors, state):
    """The state before ``step``: zero before the first, else as the forward pass has kept it."""
    bytes_per_vector = job.states * VECTOR
    saved = job.saved + sample * job.saved_sample
    saved += ((step // CHUNK - 1) * job.vectors + first_vector) * bytes_per_vector
    for offset in range(0, vectors * bytes_per_vector, VECTOR):
        store(state + offset, splat(0.0) if step == 0 else load(saved + offset))


@jit
def scan(job, work, task, scratch):
    """One group of channels of one sample, over all steps of the segment."""
    groups = (job.vectors + GROUP - 1) // GROUP
    slot, group = task // groups, task % groups
    sample = work.first_sample + slot
    first_vector = group * GROUP
    vectors = min(GROUP, job.vectors - first_vector)
    columns, row, first_channel = job.columns * FLOAT, job.width * FLOAT, first_vector * VECTOR
    delta, source, y, state = scratch, scratch + TILES, scratch + 2 * TILES, scratch + 3 * TILES
    per_vector = job.states * VECTOR

    load_states(job, sample, work.first_step, first_vector, vectors, state)
    for first in range(0, work.steps, CHUNK):
        rows = min(CHUNK, work.steps - first)
        step = work.first_step + first
        projected = job.projected + sample * job.projected_sample + step * columns
        inner = job.inner + slot * job.inner_sample + first * row + first_channel
        step_sizes(job, projected, first_channel, vectors, rows, delta)
        for v in range(vectors):
            channel = first_channel + v * VECTOR
            bias, skip = load(job.dt_bias + channel), load(job.skip + channel)
            for t in range(rows):
                here = v * TILE + t * VECTOR
                x = load(inner + t * row + v * VECTOR)
                step_size, _ = softplus_and_slope(load(delta + here) + bias)
                store(delta + here, step_size)
                store(source + here, step_size * x)
                store(y + here, skip * x)
            B_rows = projected + job.rank_columns * FLOAT
            C_rows = B_rows + job.states * FLOAT
            rate = job.decay_rate + (first_vector + v) * per_vector
            tile = v * TILE
            tiles = delta + tile, source + tile, y + tile
            scan_tile(*tiles, B_rows, C_rows, columns, rate, state + v * per_vector, job.states, rows)
        write_output(job, sample, step, first_channel, vectors, rows, y)
        if step + rows < job.length:
            saved = job.saved + sample * job.saved_sample
            saved += (step // CHUNK * job.vectors + first_vector) * per_vector
            for offset in range(0, vectors * per_vector, VECTOR):
                store(saved + offset, load(state + offset))


@jit
def write_output(job, sample, step, first_channel, vectors, rows, y):
    """The first direction leaves its y, the second adds its own and gates the sum with SiLU(z)."""
    for t in range(rows):
        out = job.y + sample * job.y_sample + (step + t) * job.y_step + first_channel
        z_row = job.z + sample * job.z_sample + (step + t) * job.z_step + first_channel
        for v in range(vectors):
            y_t = load(y + v * TILE + t * VECTOR)
            if job.is_last_direction:
                z = load(z_row + v * VECTOR)
                y_t = (load(out + v * VECTOR) + y_t) * (z * sigmoid(z))
            store(out + v * VECTOR, y_t)
