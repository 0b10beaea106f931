"""Small matrix products inside a kernel, in registers and in one fixed order of additions.

The projections around the scan are too narrow and too many for a BLAS call each, and a BLAS may
split a sum differently for another number of threads or of samples.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from llvmlite import ir
from numba import types
from numba.core import cgutils

from discli.scan.cpu.compiler import jit
from discli.scan.cpu.lanes import FLOAT, LANES, broadcast, floats, instruction, multiply_add, pointer

# A tile of C is this many rows by two vectors: enough accumulators to hide an fma's latency, few
# enough to leave registers for A and B (32 in all with AVX-512 and on ARM, 16 with AVX2).
_ROWS = 4 if LANES == 8 else 8
_int64 = ir.IntType(64)


def _panel(vectors):
    """C[:, vectors] for all rows, arguments as in `matmul`."""

    @instruction(types.void, *[types.int64] * 12)
    def panel(builder, a, a_row, a_column, b, b_row, b_vector, c, c_row, c_vector, rows, depth, accumulate):
        def at(base, *steps):
            for index, stride in steps:
                base = builder.add(base, builder.mul(index, stride))
            return base

        def tile(first_row, height):
            a_tile, c_tile = at(a, (first_row, a_row)), at(c, (first_row, c_row))
            cells = [(i, j) for i in range(height) for j in range(vectors)]
            c_cell = {
                (i, j): pointer(builder, at(c_tile, (_int64(i), c_row), (_int64(j), c_vector)), floats)
                for i, j in cells
            }
            sums = {cell: cgutils.alloca_once(builder, floats) for cell in cells}
            for cell in cells:
                builder.store(ir.Constant(floats, [0.0] * LANES), sums[cell])
            with builder.if_then(builder.icmp_signed("!=", accumulate, _int64(0))):
                for cell in cells:
                    builder.store(builder.load(c_cell[cell], align=FLOAT), sums[cell])
            with cgutils.for_range(builder, depth) as loop:
                k = loop.index
                b_k = [pointer(builder, at(b, (k, b_row), (_int64(j), b_vector)), floats) for j in range(vectors)]
                b_k = [builder.load(b_kj, align=FLOAT) for b_kj in b_k]
                for i in range(height):
                    a_ik = pointer(builder, at(a_tile, (_int64(i), a_row), (k, a_column)), ir.FloatType())
                    a_ik = broadcast(builder, builder.load(a_ik, align=FLOAT))
                    for j in range(vectors):
                        builder.store(multiply_add(builder, a_ik, b_k[j], builder.load(sums[i, j])), sums[i, j])
            for cell in cells:
                builder.store(builder.load(sums[cell]), c_cell[cell], align=FLOAT)

        tiles = builder.udiv(rows, _int64(_ROWS))
        with cgutils.for_range(builder, tiles) as loop:
            tile(builder.mul(loop.index, _int64(_ROWS)), _ROWS)
        with cgutils.for_range(builder, builder.urem(rows, _int64(_ROWS))) as loop:
            tile(builder.add(builder.mul(tiles, _int64(_ROWS)), loop.index), 1)

    return panel


_two_vectors, _one_vector = _panel(2), _panel(1)


@jit
def matmul(a, a_row, a_column, b, b_row, b_vector, c, c_row, c_vector, rows, vectors, depth, accumulate):
    """C = A B, or C += A B if ``accumulate``; C is (rows, vectors LANES), the sum has ``depth`` terms.

    a, b and c are addresses, the others strides in bytes: A[i, k] lies at a + i a_row + k a_column,
    the j-th vector of B's row k at b + k b_row + j b_vector, and that of C's row i likewise.
    """
    for j in range(0, vectors - 1, 2):
        b_j, c_j = b + j * b_vector, c + j * c_vector
        _two_vectors(a, a_row, a_column, b_j, b_row, b_vector, c_j, c_row, c_vector, rows, depth, accumulate)
    if vectors % 2 == 1:
        b_j, c_j = b + (vectors - 1) * b_vector, c + (vectors - 1) * c_vector
        _one_vector(a, a_row, a_column, b_j, b_row, b_vector, c_j, c_row, c_vector, rows, depth, accumulate)
