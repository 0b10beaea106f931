"""Kernels of the backward pass: the scan's adjoint. That of x_proj and the convolution follows in `backward_conv`.

Nothing but x, z, x_proj's output and one state in 128 steps is kept from the forward pass. A task walks
its chunk once more from the first step to the last and keeps the decays, then back, 16 steps at a time.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu.compiler import jit
from discli.scan.cpu.forward import TILE, load_states, step_sizes
from discli.scan.cpu.job import BLOCK, CHUNK, GROUP, PIECE, SPAN
from discli.scan.cpu.lanes import FLOAT, LANES, VECTOR, fma, load, splat, store
from discli.scan.cpu.math import sigmoid, softplus_and_slope
from discli.scan.cpu.matmul import matmul
from discli.scan.cpu.recurrence import DECAYS, PAIR, ROW, add_totals, advance_and_keep, go_back
from discli.scan.cpu.rows import AHEAD, fetch_row, in_row, load_row, place_of_sums, store_row

_LN_2 = 0.6931471805599453

# A task's scratch memory: tiles of a chunk, buffers of a span, decays, then as many states as there are n.
_DELTA, _SOURCE, _DY, _Y, _DSOURCE, _DDELTA, _SLOPE = range(0, 7 * TILE, TILE)
_KEPT = 7 * TILE
_DB = _KEPT + SPAN * DECAYS
_DC = _DB + SPAN * PAIR * VECTOR
_DECAYS = _DC + SPAN * PAIR * VECTOR


@jit
def zero(where, count):
    for offset in range(0, count, VECTOR):
        store(where + offset, splat(0.0))


@jit
def scan_there(job, first_n, last_n, first_vector, vectors, first, rows, projected, partial, scratch, decays, state):
    """One span for some of the states, forward in time: decays, y and dC."""
    columns, per_vector = job.columns * FLOAT, job.states * VECTOR
    begin = first * columns + job.rank_columns * FLOAT
    rate, after = job.decay_rate + first_vector * per_vector, state + GROUP * per_vector
    for n in range(first_n, last_n, PAIR):
        B = projected + begin + n * FLOAT
        C = B + job.states * FLOAT
        for block in range(0, vectors, BLOCK):
            tiles, states = scratch + first * ROW + block * VECTOR, block * per_vector + n * VECTOR
            advance_and_keep(
                tiles + _DELTA,
                tiles + _SOURCE,
                tiles + _Y,
                tiles + _DY,
                decays + (block + (n - first_n) * vectors // PAIR) * (SPAN * DECAYS // BLOCK),
                scratch + _DC,
                B,
                C,
                columns,
                rate + states,
                state + states,
                after + states,
                per_vector,
                rows,
            )
        add_totals(scratch + _DC, partial + begin + (job.states + n) * FLOAT, columns, rows)


@jit
def scan_back(
    job, first_n, last_n, slot, first_vector, vectors, first, rows, projected, partial, scratch, decays, state
):
    """The same span backward in time: dB, and the gradients of delta, source and the decay rates."""
    columns, per_vector = job.columns * FLOAT, job.states * VECTOR
    begin = first * columns + job.rank_columns * FLOAT
    rate = job.decay_rate + first_vector * per_vector
    dstate = job.dstate + (slot * job.vectors + first_vector) * per_vector
    drate = job.gradients + slot * job.gradients_sample + job.drate + first_vector * per_vector
    for n in range(first_n, last_n, PAIR):
        B = projected + begin + n * FLOAT
        C = B + job.states * FLOAT
        for block in range(0, vectors, BLOCK):
            tiles, states = scratch + first * ROW + block * VECTOR, block * per_vector + n * VECTOR
            go_back(
                tiles + _DELTA,
                tiles + _SOURCE,
                tiles + _DY,
                tiles + _DSOURCE,
                tiles + _DDELTA,
                decays + (block + (n - first_n) * vectors // PAIR) * (SPAN * DECAYS // BLOCK),
                scratch + _KEPT,
                scratch + _DB,
                B,
                C,
                columns,
                rate + states,
                state + states,
                dstate + states,
                drate + states,
                per_vector,
                rows,
            )
        add_totals(scratch + _DB, partial + begin + n * FLOAT, columns, rows)


@jit
def prepare(job, sample, step, first_vector, vectors, rows, inner, scratch):
    """Fills the tiles of one chunk; delta comes in as dt_proj's output, without bias or softplus."""
    first_channel, there = first_vector * VECTOR, in_row(job, first_vector, vectors)
    z_rows, dy_rows = job.z + sample * job.z_sample, job.dy + sample * job.dy_sample
    part, size = first_channel >> job.is_bf16, (vectors * VECTOR) >> job.is_bf16
    for t in range(rows):
        z_row, dy_row = z_rows + (step + t) * job.z_step, dy_rows + (step + t) * job.dy_step
        fetch_row(z_row + AHEAD * job.z_step + part, size)
        fetch_row(dy_row + AHEAD * job.dy_step + part, size)
        for v in range(vectors):
            channel, at = first_channel + v * VECTOR, v * VECTOR
            tile = scratch + t * ROW + at
            x = load(inner + t * job.width * FLOAT + at)
            z = load_row(job, z_row, channel) if v < there else splat(0.0)
            dy = load_row(job, dy_row, channel) if v < there else splat(0.0)
            delta, slope = softplus_and_slope(load(tile + _DELTA) + load(job.dt_bias + channel))
            store(tile + _DELTA, delta)
            store(tile + _SOURCE, delta * x)
            store(tile + _DY, dy * (z * sigmoid(z)))
            store(tile + _Y, load(job.skip + channel) * x)
            store(tile + _DSOURCE, splat(0.0))
            store(tile + _DDELTA, splat(0.0))
            store(tile + _SLOPE, slope)


@jit
def finish(job, work, place, first_channel, vectors, inner, gradients, scratch):
    """From the tiles of one chunk: dx' (in the place of x'), dz, and in _SLOPE dt_proj's dL/doutput."""
    sample, there = work.first_sample + place, in_row(job, first_channel // VECTOR, vectors)
    z_rows, dy_rows = job.z + sample * job.z_sample, job.dy + sample * job.dy_sample
    sums = job.dz_sum + place_of_sums(job, work, place) * job.dz_sum_sample + first_channel
    part, size = first_channel >> job.is_bf16, (vectors * VECTOR) >> job.is_bf16
    for t in range(work.steps):
        step = work.first_step + t
        z_row, dy_row, sum_row = z_rows + step * job.z_step, dy_rows + step * job.dy_step, sums + step * job.dz_sum_step
        dz_row = job.dz + sample * job.dz_sample + step * job.dz_step
        fetch_row(sum_row + AHEAD * job.dz_sum_step, vectors * VECTOR)
        if job.is_last_direction:
            fetch_row(z_row + AHEAD * job.z_step + part, size)
            fetch_row(dy_row + AHEAD * job.dy_step + part, size)
        for v in range(vectors):
            channel, at = first_channel + v * VECTOR, v * VECTOR
            tile, x_here = scratch + t * ROW + at, inner + t * job.width * FLOAT + at
            dskip, dbias = gradients + job.dskip + channel, gradients + job.ddt_bias + channel
            x, dy, dsource = load(x_here), load(tile + _DY), load(tile + _DSOURCE)
            ddelta = fma(x, dsource, splat(_LN_2) * load(tile + _DDELTA))
            draw = ddelta * load(tile + _SLOPE)
            store(tile + _SLOPE, draw)
            store(x_here, fma(load(tile + _DELTA), dsource, load(job.skip + channel) * dy))
            store(dskip, fma(dy, x, load(dskip)))
            store(dbias, load(dbias) + draw)

        for v in range(there):
            channel, at = first_channel + v * VECTOR, v * VECTOR
            y = load(scratch + t * ROW + at + _Y)
            if job.is_last_direction:
                z = load_row(job, z_row, channel)
                gate = sigmoid(z)
                dgate = gate * fma(z, splat(1.0) - gate, splat(1.0))
                dz = load_row(job, dy_row, channel) * (load(sum_row + at) + y) * dgate
                store_row(job, dz_row, channel, dz)
            else:
                store(sum_row + at, y)


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
    prepare(job, sample, work.first_step, first_vector, vectors, rows, inner, scratch)
    if group == 0 or not job.whole_samples:
        zero(partial, rows * columns)

    spans, per_span = (rows + SPAN - 1) // SPAN, GROUP * per_vector
    decays, kept_per_span = scratch + _DECAYS, SPAN * (DECAYS // BLOCK // PAIR) * vectors * job.kept_states
    states = decays + CHUNK * GROUP * job.kept_states * VECTOR
    zero(scratch + _DB, 2 * SPAN * PAIR * VECTOR)
    load_states(job, sample, work.first_step, first_vector, vectors, states)
    for n in range(0, job.states, job.kept_states):
        end = min(n + job.kept_states, job.states)
        for span in range(spans):
            begin = span * SPAN
            length, kept, state = min(rows - begin, SPAN), decays + span * kept_per_span, states + span * per_span
            scan_there(job, n, end, first_vector, vectors, begin, length, projected, partial, scratch, kept, state)
        for span in range(spans - 1, -1, -1):
            begin = span * SPAN
            length, kept, state = min(rows - begin, SPAN), decays + span * kept_per_span, states + span * per_span
            scan_back(job, n, end, slot, first_vector, vectors, begin, length, projected, partial, scratch, kept, state)
    finish(job, work, place, first_channel, vectors, inner, gradients, scratch)

    # dt_proj, towards its weight and towards its input
    draw, ddt_weight = scratch + _SLOPE, gradients + job.ddt_weight + first_channel
    matmul(projected, FLOAT, columns, draw, ROW, VECTOR, ddt_weight, row, VECTOR, job.rank, vectors, rows, 1)
    dt_out = job.dt_out + first_vector * LANES * rank_columns
    for column in range(0, rank_columns, 2 * VECTOR):
        wide, here = min(2, (rank_columns - column) // VECTOR), dt_out + column
        matmul(
            draw, ROW, FLOAT, here, rank_columns, VECTOR, scratch, 2 * VECTOR, VECTOR, rows, wide, vectors * LANES, 0
        )
        add_rows(scratch, 2 * VECTOR, partial + column, columns, rows, wide)


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
    """One piece of one sample: adds what all groups of channels found for dt, B and C to the first's, in order."""
    groups = (job.vectors + GROUP - 1) // GROUP
    pieces = (work.steps + PIECE - 1) // PIECE
    place, begin = task // pieces, task % pieces * PIECE
    slot = work.first_slot + place
    rows, columns = min(PIECE, work.steps - begin), job.columns * FLOAT
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
