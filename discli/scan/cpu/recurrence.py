"""The scan's inner loops: a block of several vectors of channels and two states, over one span of steps.

So many independent chains hide the latency of each, what is loaded serves them all, and the sums over the
channels that dB and dC need are added up in registers as far as they go. LLVM unrolls no loop over
vectors by itself, so Python does here: these functions write down LLVM's instructions.

Tiles hold a row for each step, and a row holds a vector for each of a task's. Arguments are addresses and
strides in bytes; those of the first of the two states, whose neighbour lies a vector (in B and C a float) on.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from llvmlite import ir
from numba import types
from numba.core import cgutils

from discli.scan.cpu.job import BLOCK, GROUP, SPAN
from discli.scan.cpu.lanes import FLOAT, LANES, VECTOR, broadcast, floats, instruction, lanes, multiply_add, pointer

PAIR = 2  # states; those of a block fill 32 registers, or 16
ROW = GROUP * VECTOR  # of a tile
DECAYS = BLOCK * PAIR * VECTOR  # what a step leaves in a block's decays

_ROUND = 12582912.0  # 1.5 2^23: adding it rounds a float to an integer and leaves that integer in the low bits
_EXP2 = 0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253, 0.6931470036506653, 1.0
_int64, _ints = ir.IntType(64), ir.VectorType(ir.IntType(32), LANES)
_zeros = ir.Constant(floats, [0.0] * LANES)


def _constant(value):
    return ir.Constant(floats, [value] * LANES)


class _Writer:
    """Writes down instructions at the end of one function."""

    def __init__(self, builder):
        self.builder = builder

    def at(self, base, *steps):
        """base + the product of each of ``steps``"""
        for index, stride in steps:
            stride = stride if isinstance(stride, ir.Value) else _int64(stride)
            base = self.builder.add(base, self.builder.mul(index, stride))
        return base

    def _pointer(self, where, offset):
        return pointer(self.builder, self.builder.add(where, _int64(offset)), floats)

    def load(self, where, offset=0):
        return self.builder.load(self._pointer(where, offset), align=FLOAT)

    def store(self, value, where, offset=0):
        self.builder.store(value, self._pointer(where, offset), align=FLOAT)

    def spread(self, where, offset):
        """One float in all lanes."""
        one = pointer(self.builder, self.builder.add(where, _int64(offset)), ir.FloatType())
        return broadcast(self.builder, self.builder.load(one, align=FLOAT))

    def fma(self, a, b, c):
        return multiply_add(self.builder, a, b, c)

    def mul(self, a, b):
        return self.builder.fmul(a, b)

    def variable(self, value):
        """One that a loop changes; LLVM keeps it in a register."""
        place = cgutils.alloca_once(self.builder, floats)
        self.builder.store(value, place)
        return place

    def get(self, place):
        return self.builder.load(place)

    def set(self, place, value):
        self.builder.store(value, place)

    def exp2(self, a, b):
        """2^(a b) for a b from -infinity to 0; exactly 0 below -126.5, so that no denormal slows the scan.

        Minimax polynomial, relative error 9.1e-8 before rounding. It is exactly 1 at 0: a decay is
        raised to the power of the sequence length, and a bias would be too. NaN comes through.
        """
        builder = self.builder
        whole = self.fma(a, b, _constant(_ROUND))
        fraction = self.fma(a, b, builder.fneg(builder.fsub(whole, _constant(_ROUND))))
        power = _constant(_EXP2[0])
        for coefficient in _EXP2[1:]:
            power = self.fma(power, fraction, _constant(coefficient))
        exponent = builder.shl(builder.bitcast(whole, _ints), ir.Constant(_ints, [23] * LANES))
        power = builder.bitcast(builder.add(builder.bitcast(power, _ints), exponent), floats)
        return builder.select(builder.fcmp_ordered("<", whole, _constant(_ROUND - 126)), _zeros, power)


_block = [(v, n) for v in range(BLOCK) for n in range(PAIR)]


def _pair_offsets(per_vector):
    """Where the block's states lie: a vector's are side by side, and ``per_vector`` bytes in all."""
    return {(v, n): ((_int64(v), per_vector), n * VECTOR) for v, n in _block}


def _advance(is_backward_pass):
    names = "delta source y dy decays dC B C row_stride rate before after per_vector rows"

    @instruction(types.void, *[types.int64] * len(names.split()))
    def advance(builder, delta, source, y, dy, decays, dC, B, C, row_stride, rate, before, after, per_vector, rows):
        write = _Writer(builder)
        states = _pair_offsets(per_vector)
        h = {
            cell: write.variable(write.load(write.at(before, step), offset)) for cell, (step, offset) in states.items()
        }
        rates = {cell: write.load(write.at(rate, step), offset) for cell, (step, offset) in states.items()}
        with cgutils.for_range(builder, rows) as loop:
            t = loop.index
            row = write.at(_int64(0), (t, ROW))
            B_t, C_t = (write.at(base, (t, row_stride)) for base in (B, C))
            Bs, Cs = ([write.spread(base, n * FLOAT) for n in range(PAIR)] for base in (B_t, C_t))
            delta_t, source_t, y_t, dy_t = (builder.add(base, row) for base in (delta, source, y, dy))
            decays_t, dC_t = write.at(decays, (t, DECAYS)), write.at(dC, (t, PAIR * VECTOR))
            sums = [write.load(dC_t, n * VECTOR) for n in range(PAIR)] if is_backward_pass else []
            for v in range(BLOCK):
                delta_v, source_v = write.load(delta_t, v * VECTOR), write.load(source_t, v * VECTOR)
                y_v = write.load(y_t, v * VECTOR)
                for n in range(PAIR):
                    decay = write.exp2(delta_v, rates[v, n])
                    h_t = write.fma(source_v, Bs[n], write.mul(decay, write.get(h[v, n])))
                    write.set(h[v, n], h_t)
                    y_v = write.fma(h_t, Cs[n], y_v)
                    if is_backward_pass:
                        write.store(decay, decays_t, (v * PAIR + n) * VECTOR)
                        sums[n] = write.fma(write.load(dy_t, v * VECTOR), h_t, sums[n])
                write.store(y_v, y_t, v * VECTOR)
            for n, total in enumerate(sums):
                write.store(total, dC_t, n * VECTOR)
        for cell, (step, offset) in states.items():
            write.store(write.get(h[cell]), write.at(after, step), offset)

    return advance


advance = _advance(False)
"""From the states ``before`` the span to those ``after`` it; adds C_t . h_t to y. source = delta x'."""

advance_and_keep = _advance(True)
"""The same, which keeps the decays and adds dC_t = h_t dy_t."""


@instruction(types.void, *[types.int64] * 17)
def go_back(
    builder, delta, source, dy, dsource, ddelta, decays, kept, dB, B, C, row_stride, rate, before, dstate, drate,
    per_vector, rows,
):  # fmt: skip
    """The adjoint. With g_t = dL/dh_t, q_t = decay_t h_{t-1} and u_t = dL/d(delta_t A):

        g_t = C_t dy_t + decay_{t+1} g_{t+1};   u_t = g_t q_t
        dB_t += g_t source_t;   dsource_t += g_t B_t;   ddelta_t += u_t A;   dA += u_t delta_t

    ``kept`` has room for the q of a span, ``dstate`` and ``drate`` hold decay_{t+1} g_{t+1} and dA.
    """
    write = _Writer(builder)
    states = _pair_offsets(per_vector)

    def variables(base):
        return {
            cell: write.variable(write.load(write.at(base, step), offset)) for cell, (step, offset) in states.items()
        }

    h, pushed, drates = variables(before), variables(dstate), variables(drate)
    with cgutils.for_range(builder, rows) as loop:
        t = loop.index
        source_t, B_t = write.at(source, (t, ROW)), write.at(B, (t, row_stride))
        decays_t, kept_t = write.at(decays, (t, DECAYS)), write.at(kept, (t, DECAYS))
        for v, n in _block:
            here = (v * PAIR + n) * VECTOR
            q = write.mul(write.load(decays_t, here), write.get(h[v, n]))
            write.store(q, kept_t, here)
            write.set(h[v, n], write.fma(write.load(source_t, v * VECTOR), write.spread(B_t, n * FLOAT), q))

    rates = {cell: write.load(write.at(rate, step), offset) for cell, (step, offset) in states.items()}
    with cgutils.for_range(builder, rows) as loop:
        t = builder.sub(builder.sub(rows, _int64(1)), loop.index)
        row = write.at(_int64(0), (t, ROW))
        delta_t, source_t, dy_t, dsource_t, ddelta_t = (
            builder.add(base, row) for base in (delta, source, dy, dsource, ddelta)
        )
        B_t, C_t = (write.at(base, (t, row_stride)) for base in (B, C))
        Bs, Cs = ([write.spread(base, n * FLOAT) for n in range(PAIR)] for base in (B_t, C_t))
        decays_t, kept_t = write.at(decays, (t, DECAYS)), write.at(kept, (t, DECAYS))
        dB_t = write.at(dB, (t, PAIR * VECTOR))
        sums = [write.load(dB_t, n * VECTOR) for n in range(PAIR)]
        for v in range(BLOCK):
            at = v * VECTOR
            delta_v, source_v, dy_v = write.load(delta_t, at), write.load(source_t, at), write.load(dy_t, at)
            dsource_v, ddelta_v = write.load(dsource_t, at), write.load(ddelta_t, at)
            for n in range(PAIR):
                here = (v * PAIR + n) * VECTOR
                g = write.fma(dy_v, Cs[n], write.get(pushed[v, n]))
                sums[n] = write.fma(source_v, g, sums[n])
                dsource_v = write.fma(g, Bs[n], dsource_v)
                u = write.mul(g, write.load(kept_t, here))
                write.set(pushed[v, n], write.mul(g, write.load(decays_t, here)))
                ddelta_v = write.fma(u, rates[v, n], ddelta_v)
                write.set(drates[v, n], write.fma(u, delta_v, write.get(drates[v, n])))
            write.store(dsource_v, dsource_t, at)
            write.store(ddelta_v, ddelta_t, at)
        for n, total in enumerate(sums):
            write.store(total, dB_t, n * VECTOR)

    for variable, base in ((pushed, dstate), (drates, drate)):
        for cell, (step, offset) in states.items():
            write.store(write.get(variable[cell]), write.at(base, step), offset)


def _sum_lanes(builder, vectors):
    """The sum over the lanes of the i-th vector in lane i, added up by halves in one fixed order."""
    width = LANES
    while len(vectors) > 1:
        width, half = width // 2, len(vectors) // 2
        blocks = [range(begin, begin + width) for begin in range(0, LANES, 2 * width)]
        low = [lane + side for block in blocks for side in (0, LANES) for lane in block]
        low, high = (ir.Constant(_ints, [lane + shift for lane in low]) for shift in (0, width))
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
            for a, b in zip(vectors[:half], vectors[half:], strict=True)
        ]
    return vectors[0]


@instruction(types.void, *[types.int64] * 4)
def add_totals(builder, sums, into, row_stride, rows):
    """Adds the sums over the lanes of ``sums``, which become zero: of each step, two to two floats of a row."""
    write = _Writer(builder)
    steps = LANES // PAIR  # that fill a vector
    totals = cgutils.alloca_once(builder, floats, size=SPAN // steps)
    two = ir.VectorType(ir.FloatType(), PAIR)
    for batch in range(SPAN // steps):
        places = [(batch * LANES + i) * VECTOR for i in range(LANES)]
        total = _sum_lanes(builder, [write.load(sums, place) for place in places])
        builder.store(total, builder.gep(totals, [_int64(batch)]))
        for place in places:
            write.store(_zeros, sums, place)
    totals = builder.bitcast(totals, two.as_pointer())
    with cgutils.for_range(builder, rows) as loop:
        here = pointer(builder, write.at(into, (loop.index, row_stride)), two)
        total = builder.load(builder.gep(totals, [loop.index]), align=FLOAT)
        builder.store(builder.fadd(builder.load(here, align=FLOAT), total), here, align=FLOAT)


@instruction(lanes, lanes, lanes)
def exp2(builder, a, b):
    """2^(a b), see `_Writer.exp2`."""
    return _Writer(builder).exp2(a, b)
