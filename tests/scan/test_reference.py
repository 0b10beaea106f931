"""The oracle itself, against a recurrence written out for one channel at a time."""

import math

import torch

from discli.scan import reference
from tests.scan.cases import random_inputs


def test_the_reference_equals_the_formula_written_out_by_hand():
    inputs = random_inputs(1, 5, 3, d_state=2, d_conv=2, dt_rank=1, dtype=torch.float64)
    with torch.no_grad():
        y = reference.bidirectional_scan(*inputs)
        x, z = inputs.x[0].tolist(), inputs.z[0].tolist()
        ahead = _direction(x, inputs.forward)
        back = _direction(x[::-1], inputs.backward)[::-1]
    for t in range(5):
        for e in range(3):
            expected = (ahead[t][e] + back[t][e]) * _silu(z[t][e])
            assert math.isclose(float(y[0, t, e]), expected, rel_tol=1e-12)


def _direction(x, p):
    conv_w, conv_b, x_proj, dt_w, dt_b, A_log, D = (t.tolist() for t in p)
    E, N, K, R = len(D), len(A_log[0]), len(conv_w[0]), len(dt_w[0])
    state, ys = [[0.0] * N for _ in range(E)], []
    for t in range(len(x)):
        u = [
            _silu(conv_b[e] + sum(conv_w[e][K - 1 - k] * x[t - k][e] for k in range(K) if t - k >= 0)) for e in range(E)
        ]
        projected = [sum(row[e] * u[e] for e in range(E)) for row in x_proj]
        dt, B, C = projected[:R], projected[R : R + N], projected[R + N :]
        y = []
        for e in range(E):
            delta = math.log1p(math.exp(dt_b[e] + sum(dt_w[e][r] * dt[r] for r in range(R))))
            state[e] = [math.exp(-delta * math.exp(A_log[e][n])) * state[e][n] + delta * u[e] * B[n] for n in range(N)]
            y.append(sum(C[n] * state[e][n] for n in range(N)) + D[e] * u[e])
        ys.append(y)
    return ys


def _silu(v):
    return v / (1 + math.exp(-v))
