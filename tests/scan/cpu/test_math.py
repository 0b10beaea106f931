"""exp, sigmoid and softplus of the CPU kernels, against NumPy in float64."""

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import types

from discli.scan.cpu.compiler import entry, jit
from discli.scan.cpu.lanes import LANES, VECTOR, load, splat, store
from discli.scan.cpu.math import exp, sigmoid, softplus_and_slope
from discli.scan.cpu.recurrence import exp2


def _over(array, function):
    @entry(types.void(types.int64, types.int64, types.int64), quietly=True)
    def run(source, target, vectors):
        for i in range(vectors):
            store(target + i * VECTOR, function(load(source + i * VECTOR)))

    x = np.ascontiguousarray(array, np.float32)
    assert x.size % LANES == 0
    y = np.empty_like(x)
    run.ctypes(x.ctypes.data, y.ctypes.data, x.size // LANES)
    return x.astype(np.float64), y.astype(np.float64)


@jit
def _exp2(x):
    return exp2(x, splat(1.0))


@jit
def _softplus(x):
    return softplus_and_slope(x)[0]


@jit
def _slope(x):
    return softplus_and_slope(x)[1]


def test_exp2_is_accurate_from_zero_down_to_underflow():
    x, y = _over(-np.concatenate([np.linspace(0, 126, 16000), np.geomspace(1e-30, 1, 16000)]), _exp2)
    assert np.max(np.abs(y / np.exp2(x) - 1)) < 2e-7


def test_exp2_ends_in_zero_and_begins_with_one():
    x = np.full(LANES, -0.0)
    x[:4] = [-127.0, -1e30, -np.inf, np.nan]
    _, y = _over(x, _exp2)
    assert y[:3].tolist() == [0, 0, 0]
    assert np.isnan(y[3])
    assert np.all(y[4:] == 1)


def test_exp_is_accurate():
    x, y = _over(np.linspace(-87, 87, 32000), exp)
    assert np.max(np.abs(y / np.exp(x) - 1)) < 3e-7


def test_sigmoid_is_accurate_and_keeps_its_limits():
    x, y = _over(np.concatenate([np.linspace(-20, 20, 31984), [-np.inf, np.inf] * 8]), sigmoid)
    assert np.max(np.abs(y - 1 / (1 + np.exp(-x)))) < 2e-7


def test_softplus_is_relatively_accurate_at_both_ends():
    x, y = _over(np.concatenate([np.linspace(-80, 80, 16000), np.geomspace(1, 1e30, 16000)]), _softplus)
    assert np.max(np.abs(y / np.logaddexp(x, 0) - 1)) < 6e-7


def test_softplus_comes_with_its_derivative():
    x, y = _over(np.linspace(-80, 80, 16000), _slope)
    assert np.max(np.abs(y * (1 + np.exp(-x)) - 1)) < 8e-7
