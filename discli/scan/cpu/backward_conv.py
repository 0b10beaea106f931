"""Kernels of the backward pass, continued: the adjoint of x_proj, SiLU and the convolution."""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu.backward import zero
from discli.scan.cpu.compiler import jit
from discli.scan.cpu.forward import TILE, convolve_strip
from discli.scan.cpu.job import GROUP, STRIP
from discli.scan.cpu.lanes import FLOAT, VECTOR, fma, load, splat, store
from discli.scan.cpu.math import sigmoid
from discli.scan.cpu.matmul import matmul
from discli.scan.cpu.recurrence import ROW
from discli.scan.cpu.rows import fetch_row, in_row, load_row, place_of_sums, row_before, store_row


@jit
def before(column, step):
    """A vector at ``step`` of a column of a tile; zero before the first step."""
    return load(column + step * ROW) if step >= 0 else splat(0.0)


@jit
def convolve_backward(job, work, task, scratch):
    """One group of channels of one sample: x_proj, SiLU and the convolution, towards x and weights."""
    groups = (job.vectors + GROUP - 1) // GROUP
    place, first_vector = task // groups, task % groups * GROUP
    slot, sample, first_channel = work.first_slot + place, work.first_sample + place, first_vector * VECTOR
    vectors, rows = min(GROUP, job.vectors - first_vector), work.steps
    there = in_row(job, first_vector, vectors)
    columns, row = job.columns * FLOAT, job.width * FLOAT
    gradients = job.gradients + slot * job.gradients_sample + first_channel
    dx_proj, dweight, dbias = gradients + job.dx_proj, gradients + job.dconv_weight, gradients + job.dconv_bias
    x = job.x + sample * job.x_sample
    dx = job.dx_sum + place_of_sums(job, work, place) * job.dx_sum_sample + first_channel
    part, size = first_channel >> job.is_bf16, (vectors * VECTOR) >> job.is_bf16
    if work.is_first:
        for r in range(job.columns):
            zero(dx_proj + r * row, vectors * VECTOR)
        for tap in range(job.taps):
            zero(dweight + tap * row, vectors * VECTOR)
        zero(dbias, vectors * VECTOR)

    slope, activated = scratch, scratch + TILE
    for strip in range(0, rows, STRIP):
        steps = min(STRIP, rows - strip)
        for t in range(STRIP):
            later = work.first_step + strip + STRIP + t
            fetch_row(x + later * job.x_step + part, size)
            fetch_row(dx + later * job.dx_sum_step, vectors * VECTOR)
        for v in range(vectors):
            channel, here = first_channel + v * VECTOR, strip * ROW + v * VECTOR
            convolve_strip(job, x, channel, work.first_step + strip, steps, activated + here, ROW)
            for t in range(steps):
                at = here + t * ROW
                conv = load(activated + at)
                gate = sigmoid(conv)
                store(activated + at, conv * gate)
                store(slope + at, gate * fma(conv, splat(1.0) - gate, splat(1.0)))

    dprojected = job.partial + slot * job.partial_sample
    dinner, x_proj = job.inner + slot * job.inner_sample + first_channel, job.x_proj_out + first_channel
    matmul(dprojected, columns, FLOAT, x_proj, row, VECTOR, dinner, row, VECTOR, rows, vectors, job.rank, 1)
    dB, x_proj = dprojected + job.rank_columns * FLOAT, x_proj + job.rank * row
    matmul(dB, columns, FLOAT, x_proj, row, VECTOR, dinner, row, VECTOR, rows, vectors, 2 * job.states, 1)
    matmul(dprojected, FLOAT, columns, activated, ROW, VECTOR, dx_proj, row, VECTOR, job.columns, vectors, rows, 1)
    for strip in range(0, rows, STRIP):
        steps = min(STRIP, rows - strip)
        for v in range(there):
            here, at = v * VECTOR, first_channel + v * VECTOR
            dconv = slope + here
            for t in range(strip, strip + steps):
                store(dconv + t * ROW, load(dinner + t * row + here) * load(dconv + t * ROW))
            if job.taps == 4:
                four_taps(job, x, at, dx + here, work.first_step, dconv, dweight + here, dbias + here, strip, steps)
            else:
                any_taps(job, x, at, dx + here, work.first_step, dconv, dweight + here, dbias + here, strip, steps)
    if job.taps == 4:  # the inputs of the last steps, which no later step of this chunk reads
        for v in range(there):
            here, weight = v * VECTOR, job.conv_weight + first_channel + v * VECTOR
            for t in range(rows, rows + 3):
                into = work.first_step + t - 3
                if into >= 0:
                    total = load(dx + here + into * job.dx_sum_step)
                    for tap in range(t - rows + 1, 4):
                        total = fma(load(weight + tap * row), before(slope + here, t - tap), total)
                    store(dx + here + into * job.dx_sum_step, total)
    if job.is_bf16 and job.is_last_direction:
        round_dx(job, sample, work.first_step, first_channel, there, rows, dx)


@jit
def round_dx(job, sample, first, first_channel, vectors, rows, sums):
    """The steps of a chunk, to which no earlier step will add; leaves zeros for the next sample."""
    for t in range(first, first + rows):
        row, out = sums + t * job.dx_sum_step, job.dx + sample * job.dx_sample + t * job.dx_step
        for at in range(0, vectors * VECTOR, VECTOR):
            store_row(job, out, first_channel + at, load(row + at))
            store(row + at, splat(0.0))


@jit
def four_taps(job, x, channel, dx, first, dconv, dweight, dbias, strip, steps):
    """One strip of one vector of channels: gradients of the weights, and of the inputs three steps before."""
    row, weight = job.width * FLOAT, job.conv_weight + channel
    w0, w1, w2, w3 = load(weight), load(weight + row), load(weight + 2 * row), load(weight + 3 * row)
    x0 = row_before(job, x, job.x_step, channel, first + strip - 3)
    x1 = row_before(job, x, job.x_step, channel, first + strip - 2)
    x2 = row_before(job, x, job.x_step, channel, first + strip - 1)
    d3, d2, d1 = before(dconv, strip - 3), before(dconv, strip - 2), before(dconv, strip - 1)
    dw0, dw1, dw2, dw3 = load(dweight), load(dweight + row), load(dweight + 2 * row), load(dweight + 3 * row)
    total = load(dbias)
    for t in range(strip, strip + steps):
        d0, x3 = load(dconv + t * ROW), load_row(job, x + (first + t) * job.x_step, channel)
        dw0, dw1, dw2, dw3 = fma(d0, x0, dw0), fma(d0, x1, dw1), fma(d0, x2, dw2), fma(d0, x3, dw3)
        total = total + d0
        into = first + t - 3
        if into >= 0:
            here = dx + into * job.dx_sum_step
            store(here, fma(w3, d3, fma(w2, d2, fma(w1, d1, fma(w0, d0, load(here))))))
        x0, x1, x2, d3, d2, d1 = x1, x2, x3, d2, d1, d0
    store(dweight, dw0)
    store(dweight + row, dw1)
    store(dweight + 2 * row, dw2)
    store(dweight + 3 * row, dw3)
    store(dbias, total)


@jit
def any_taps(job, x, channel, dx, first, dconv, dweight, dbias, strip, steps):
    """The same for any number of taps, with the inputs of every step."""
    row, weight = job.width * FLOAT, job.conv_weight + channel
    for t in range(strip, strip + steps):
        step, d = first + t, load(dconv + t * ROW)
        store(dbias, load(dbias) + d)
        for tap in range(max(0, job.taps - 1 - step), job.taps):
            source = step - job.taps + 1 + tap
            dtap, into = dweight + tap * row, dx + source * job.dx_sum_step
            store(dtap, fma(load_row(job, x + source * job.x_step, channel), d, load(dtap)))
            store(into, fma(load(weight + tap * row), d, load(into)))
