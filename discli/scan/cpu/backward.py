"""Kernels of the backward pass: the scan's adjoint. That of x_proj and the convolution follows in `backward_conv`.

Nothing but x, z, x_proj's output and one state in 128 steps is kept from the forward pass. A task
recomputes 32 steps' states and decays of two states n, walks back over them, and takes the next two.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu.compiler import jit
from discli.scan.cpu.forward import TILE, TILES, load_states, step_sizes
from discli.scan.cpu.job import GROUP, SPAN
from discli.scan.cpu.lanes import FLOAT, LANES, VECTOR, add_totals, fma, load, load_broadcast, splat, store
from discli.scan.cpu.math import exp2_nonpositive, sigmoid, softplus_and_slope
from discli.scan.cpu.matmul import matmul

_LN_2 = 0.6931471805599453
_PAIR = 2 * VECTOR  # two states of one vector of channels
ROW = GROUP * VECTOR  # a row of channels in those tiles that matmul reads

# A task's scratch memory: tiles of a chunk, buffers of a span, then the state before each span.
_DELTA, _SOURCE, _DY, _Y, _DSOURCE, _DDELTA, _SLOPE = range(0, 7 * TILES, TILES)
_BEFORE, _DECAYS, _DB, _DC = range(7 * TILES, 7 * TILES + 4 * SPAN * _PAIR, SPAN * _PAIR)
_STATE = 7 * TILES + 4 * SPAN * _PAIR


@jit
def zero(where, count):
    for offset in range(0, count, VECTOR):
        store(where + offset, splat(0.0))


@jit
def advance(tile, B_rows, row_stride, rate, before, after, states, rows):
    """The recurrence alone: from the states ``before`` to those ``rows`` steps later."""
    for n in range(0, states, 2):
        here0, here1 = n * VECTOR, (n + 1) * VECTOR
        rate0, rate1 = load(rate + here0), load(rate + here1)
        h0, h1 = load(before + here0), load(before + here1)
        for t in range(rows):
            B = B_rows + t * row_stride + n * FLOAT
            delta_t, source_t = load(tile + _DELTA + t * VECTOR), load(tile + _SOURCE + t * VECTOR)
            h0 = fma(exp2_nonpositive(delta_t * rate0), h0, source_t * load_broadcast(B))
            h1 = fma(exp2_nonpositive(delta_t * rate1), h1, source_t * load_broadcast(B + FLOAT))
        store(after + here0, h0)
        store(after + here1, h1)


@jit
def scan_pair(tiles, buffers, B_rows, row_stride, rate, state, dstate, drate, states, n, rows):
    """States n and n + 1 of one vector of channels, there and back over ``rows`` <= SPAN steps.

    On the way back, with g_t = dL/dh_t and u_t = dL/d(delta_t A):

        g_t = C_t dy_t + decay_{t+1} g_{t+1};   u_t = g_t decay_t h_{t-1}
        dC_t += h_t dy_t;   dB_t += g_t source_t;   dsource_t += g_t B_t;   ddelta_t += u_t A;   dA += u_t delta_t
    """
    delta, source, dy, y = tiles + _DELTA, tiles + _SOURCE, tiles + _DY, tiles + _Y
    dsource, ddelta = tiles + _DSOURCE, tiles + _DDELTA
    before, decays, dB, dC = buffers + _BEFORE, buffers + _DECAYS, buffers + _DB, buffers + _DC
    here0, here1 = n * VECTOR, (n + 1) * VECTOR
    rate0, rate1 = load(rate + here0), load(rate + here1)
    h0, h1 = load(state + here0), load(state + here1)
    for t in range(rows):
        B = B_rows + t * row_stride + n * FLOAT
        C = B + states * FLOAT
        at, pair = t * VECTOR, t * _PAIR
        delta_t, source_t = load(delta + at), load(source + at)
        decay0, decay1 = exp2_nonpositive(delta_t * rate0), exp2_nonpositive(delta_t * rate1)
        store(before + pair, h0)
        store(before + pair + VECTOR, h1)
        store(decays + pair, decay0)
        store(decays + pair + VECTOR, decay1)
        h0 = fma(decay0, h0, source_t * load_broadcast(B))
        h1 = fma(decay1, h1, source_t * load_broadcast(B + FLOAT))
        y_t = fma(h0, load_broadcast(C), load(y + at))
        store(y + at, fma(h1, load_broadcast(C + FLOAT), y_t))

    g0, g1 = load(dstate + here0), load(dstate + here1)
    drate0, drate1 = load(drate + here0), load(drate + here1)
    for t in range(rows - 1, -1, -1):
        B = B_rows + t * row_stride + n * FLOAT
        C = B + states * FLOAT
        at, pair = t * VECTOR, t * _PAIR
        delta_t, source_t, dy_t = load(delta + at), load(source + at), load(dy + at)
        store(dC + pair, fma(dy_t, h0, load(dC + pair)))
        store(dC + pair + VECTOR, fma(dy_t, h1, load(dC + pair + VECTOR)))
        g0 = fma(dy_t, load_broadcast(C), g0)
        g1 = fma(dy_t, load_broadcast(C + FLOAT), g1)
        store(dB + pair, fma(source_t, g0, load(dB + pair)))
        store(dB + pair + VECTOR, fma(source_t, g1, load(dB + pair + VECTOR)))
        dsource_t = fma(g0, load_broadcast(B), load(dsource + at))
        store(dsource + at, fma(g1, load_broadcast(B + FLOAT), dsource_t))
        g0, g1 = g0 * load(decays + pair), g1 * load(decays + pair + VECTOR)
        h0, h1 = load(before + pair), load(before + pair + VECTOR)
        u0, u1 = g0 * h0, g1 * h1
        store(ddelta + at, fma(u1, rate1, fma(u0, rate0, load(ddelta + at))))
        drate0, drate1 = fma(u0, delta_t, drate0), fma(u1, delta_t, drate1)
    store(dstate + here0, g0)
    store(dstate + here1, g1)
    store(drate + here0, drate0)
    store(drate + here1, drate1)


@jit
def scan_span(job, slot, first_vector, vectors, first, rows, projected, partial, scratch, state):
    """Steps ``first`` to ``first + rows`` of a chunk for all states; dB and dC summed over the task's channels."""
    columns, per_vector = job.columns * FLOAT, job.states * VECTOR
    B_rows = projected + first * columns + job.rank_columns * FLOAT
    dB_rows = partial + first * columns + job.rank_columns * FLOAT
    dstate = job.dstate + (slot * job.vectors + first_vector) * per_vector
    drate = job.gradients + slot * job.gradients_sample + job.drate + first_vector * per_vector
    rate = job.decay_rate + first_vector * per_vector
    for n in range(0, job.states, 2):
        zero(scratch + _DB, 2 * SPAN * _PAIR)
        for v in range(vectors):
            tiles, v_states = scratch + v * TILE + first * VECTOR, v * per_vector
            scan_pair(
                tiles,
                scratch,
                B_rows,
                columns,
                rate + v_states,
                state + v_states,
                dstate + v_states,
                drate + v_states,
                job.states,
                n,
                rows,
            )
        for t in range(rows):
            dB_t, pair = dB_rows + t * columns + n * FLOAT, scratch + t * _PAIR
            add_totals(dB_t, load(pair + _DB), load(pair + _DB + VECTOR))
            add_totals(dB_t + job.states * FLOAT, load(pair + _DC), load(pair + _DC + VECTOR))


@jit
def prepare(job, sample, step, first_channel, vectors, rows, inner, scratch):
    """Fills the tiles of one chunk; delta comes in as dt_proj's output, without bias or softplus."""
    for v in range(vectors):
        channel = first_channel + v * VECTOR
        bias, skip = load(job.dt_bias + channel), load(job.skip + channel)
        z_column = job.z + sample * job.z_sample + channel
        dy_column = job.dy + sample * job.dy_sample + channel
        for t in range(rows):
            tile = scratch + v * TILE + t * VECTOR
            x = load(inner + t * job.width * FLOAT + v * VECTOR)
            z = load(z_column + (step + t) * job.z_step)
            delta, slope = softplus_and_slope(load(tile + _DELTA) + bias)
            store(tile + _DELTA, delta)
            store(tile + _SOURCE, delta * x)
            store(tile + _DY, load(dy_column + (step + t) * job.dy_step) * (z * sigmoid(z)))
            store(tile + _Y, skip * x)
            store(tile + _DSOURCE, splat(0.0))
            store(tile + _DDELTA, splat(0.0))
            store(scratch + _SLOPE + t * ROW + v * VECTOR, slope)


@jit
def finish(job, sample, step, first_channel, vectors, rows, inner, gradients, scratch):
    """From the tiles of one chunk: dx' (in the place of x'), dz, and in _SLOPE dt_proj's dL/doutput."""
    for v in range(vectors):
        channel = first_channel + v * VECTOR
        skip = load(job.skip + channel)
        dskip, dbias = load(gradients + job.dskip + channel), load(gradients + job.ddt_bias + channel)
        z_column = job.z + sample * job.z_sample + channel
        dy_column = job.dy + sample * job.dy_sample + channel
        dz_column = job.dz + sample * job.dz_sample + channel
        for t in range(rows):
            tile = scratch + v * TILE + t * VECTOR
            x_here = inner + t * job.width * FLOAT + v * VECTOR
            slope_here = scratch + _SLOPE + t * ROW + v * VECTOR
            x, dy, dsource = load(x_here), load(tile + _DY), load(tile + _DSOURCE)
            ddelta = fma(x, dsource, splat(_LN_2) * load(tile + _DDELTA))
            draw = ddelta * load(slope_here)
            store(slope_here, draw)
            store(x_here, fma(load(tile + _DELTA), dsource, skip * dy))
            dskip, dbias = fma(dy, x, dskip), dbias + draw

            y, dz_here = load(tile + _Y), dz_column + (step + t) * job.dz_step
            if job.is_last_direction:
                z = load(z_column + (step + t) * job.z_step)
                gate = sigmoid(z)
                dgate = gate * fma(z, splat(1.0) - gate, splat(1.0))
                y = load(dy_column + (step + t) * job.dy_step) * (load(dz_here) + y) * dgate
            store(dz_here, y)
        store(gradients + job.dskip + channel, dskip)
        store(gradients + job.ddt_bias + channel, dbias)


@jit
def scan_backward(job, work, task, scratch):
    """One group of channels of one sample, over one chunk."""
    groups = (job.vectors + GROUP - 1) // GROUP
    place, group = task // groups, task % groups
    slot, sample, first_vector = work.first_slot + place, work.first_sample + place, group * GROUP
    vectors, rows = min(GROUP, job.vectors - first_vector), work.steps
    columns, row, first_channel = job.columns * FLOAT, job.width * FLOAT, first_vector * VECTOR
    rank_columns, per_vector = job.rank_columns * FLOAT, job.states * VECTOR
    gradients = job.gradients + slot * job.gradients_sample
    if work.is_first:
        zero(job.dstate + (slot * job.vectors + first_vector) * per_vector, vectors * per_vector)
        zero(gradients + job.drate + first_vector * per_vector, vectors * per_vector)
        zero(gradients + job.dskip + first_channel, vectors * VECTOR)
        zero(gradients + job.ddt_bias + first_channel, vectors * VECTOR)
        for r in range(job.rank):
            zero(gradients + job.ddt_weight + r * row + first_channel, vectors * VECTOR)

    projected = job.projected + sample * job.projected_sample + work.first_step * columns
    partial = job.partial + group * job.partial_group + slot * job.partial_sample
    inner = job.inner + slot * job.inner_sample + first_channel
    step_sizes(job, projected, first_channel, vectors, rows, scratch + _DELTA)
    prepare(job, sample, work.first_step, first_channel, vectors, rows, inner, scratch)
    if group == 0 or not job.whole_samples:
        zero(partial, rows * columns)

    load_states(job, sample, work.first_step, first_vector, vectors, scratch + _STATE)
    last = (rows - 1) // SPAN
    for span in range(last):
        B_rows = projected + span * SPAN * columns + rank_columns
        for v in range(vectors):
            tile, rate = scratch + v * TILE + span * SPAN * VECTOR, job.decay_rate + (first_vector + v) * per_vector
            before = scratch + _STATE + (span * GROUP + v) * per_vector
            advance(tile, B_rows, columns, rate, before, before + GROUP * per_vector, job.states, SPAN)
    for span in range(last, -1, -1):
        begin = span * SPAN
        length, state = min(rows - begin, SPAN), scratch + _STATE + span * GROUP * per_vector
        scan_span(job, slot, first_vector, vectors, begin, length, projected, partial, scratch, state)
    finish(job, sample, work.first_step, first_channel, vectors, rows, inner, gradients, scratch)

    # dt_proj, towards its weight and towards its input
    draw, ddt_weight = scratch + _SLOPE, gradients + job.ddt_weight + first_channel
    matmul(projected, FLOAT, columns, draw, ROW, VECTOR, ddt_weight, row, VECTOR, job.rank, vectors, rows, 1)
    dt_out = job.dt_out + first_vector * LANES * rank_columns
    for column in range(0, rank_columns, _PAIR):
        wide, here = min(2, (rank_columns - column) // VECTOR), dt_out + column
        matmul(draw, ROW, FLOAT, here, rank_columns, VECTOR, scratch, _PAIR, VECTOR, rows, wide, vectors * LANES, 0)
        add_rows(scratch, _PAIR, partial + column, columns, rows, wide)


@jit
def add_rows(source, source_step, into, into_step, rows, vectors):
    """Adds one task's complete sum over its channels, so that it makes no difference to any bit
    whether the groups of channels add to one place in turn or get one each for `sum_groups`."""
    for t in range(rows):
        for offset in range(0, vectors * VECTOR, VECTOR):
            here = into + t * into_step + offset
            store(here, load(here) + load(source + t * source_step + offset))


@jit
def sum_groups(job, work, task):
    """One span of one sample: adds what all groups of channels found for dt, B and C to the first's, in order."""
    groups = (job.vectors + GROUP - 1) // GROUP
    spans = (work.steps + SPAN - 1) // SPAN
    place, begin = task // spans, task % spans * SPAN
    slot = work.first_slot + place
    rows, columns = min(SPAN, work.steps - begin), job.columns * FLOAT
    partial = job.partial + slot * job.partial_sample + begin * columns
    for offset in range(0, rows * columns, VECTOR):
        total = load(partial + offset)
        for group in range(1, groups):
            total = total + load(partial + group * job.partial_group + offset)
        store(partial + offset, total)


@jit
def sum_samples(job, samples, task):
    """One row of the parameters' gradients: adds those of the samples just done, in their order."""
    row = job.width * FLOAT
    for offset in range(task * row, (task + 1) * row, VECTOR):
        total = load(job.totals + offset)
        for slot in range(samples):
            total = total + load(job.gradients + slot * job.gradients_sample + offset)
        store(job.totals + offset, total)
