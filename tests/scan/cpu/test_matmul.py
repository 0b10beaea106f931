"""The kernels' small matrix products, against NumPy in float64."""

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import types

from discli.scan.cpu.compiler import entry
from discli.scan.cpu.lanes import FLOAT, LANES, VECTOR
from discli.scan.cpu.matmul import matmul as product


@entry(types.void(*[types.int64] * 13), quietly=True)
def _matmul(a, a_row, a_column, b, b_row, b_vector, c, c_row, c_vector, rows, vectors, depth, accumulate):
    product(a, a_row, a_column, b, b_row, b_vector, c, c_row, c_vector, rows, vectors, depth, accumulate)


matmul = _matmul.ctypes


@pytest.mark.parametrize("rows", [1, 7, 8, 33])
@pytest.mark.parametrize("vectors", [1, 2, 5])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("accumulate", [0, 1])
def test_products_of_any_shape_and_stride(rows, vectors, transposed, accumulate):
    depth, width = 11, vectors * LANES
    rng = np.random.default_rng(0)
    a = rng.standard_normal((depth, rows) if transposed else (rows, depth)).astype(np.float32)
    b, c = (rng.standard_normal((n, width)).astype(np.float32) for n in (depth, rows))
    a_row, a_column = (FLOAT, rows * FLOAT) if transposed else (depth * FLOAT, FLOAT)
    expected = (a.T if transposed else a).astype(np.float64) @ b + accumulate * c.astype(np.float64)
    places = (
        a.ctypes.data,
        a_row,
        a_column,
        b.ctypes.data,
        width * FLOAT,
        VECTOR,
        c.ctypes.data,
        width * FLOAT,
        VECTOR,
    )
    matmul(*places, rows, vectors, depth, accumulate)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


def test_each_vector_of_a_row_may_go_to_a_tile_of_its_own():
    rows, vectors, depth = 9, 3, 4
    rng = np.random.default_rng(1)
    a = rng.standard_normal((rows, depth)).astype(np.float32)
    b = rng.standard_normal((depth, vectors * LANES)).astype(np.float32)
    tiles = np.zeros((vectors, rows, LANES), np.float32)
    a_places, b_places = (a.ctypes.data, depth * FLOAT, FLOAT), (b.ctypes.data, vectors * VECTOR, VECTOR)
    matmul(*a_places, *b_places, tiles.ctypes.data, VECTOR, rows * VECTOR, rows, vectors, depth, 0)
    expected = (a.astype(np.float64) @ b).reshape(rows, vectors, LANES).transpose(1, 0, 2)
    np.testing.assert_allclose(tiles, expected, rtol=1e-5, atol=1e-5)
