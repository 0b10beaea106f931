"""Residual sum and norm on a CPU, read and written once: numba kernels over rows of D channels.

A row is a token, and its result is the same wherever it lies in a batch. Threads take blocks of rows;
the weight's gradient is added up within each block and then over the blocks in their order, so that it
has the same bits for any number of threads.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from llvmlite import ir
from numba import carray, from_dtype, types
from torch import Tensor

from discli.scan.cpu import lanes as lanes_file
from discli.scan.cpu.compiler import entry, jit
from discli.scan.cpu.lanes import (
    FLOAT,
    HALF,
    LANES,
    address,
    count,
    floats,
    fma,
    instruction,
    lanes,
    load,
    load_bf16,
    pointer,
    splat,
    store,
    store_bf16,
)
from discli.scan.cpu.threads import run_on_threads

ROWS = 32  # of a block

_ints = ir.VectorType(ir.IntType(32), LANES)


@instruction(types.float32, address)
def load_number(builder, where):
    return builder.load(pointer(builder, where, ir.FloatType()), align=FLOAT)


@instruction(types.void, address, types.float32)
def store_number(builder, where, value):
    builder.store(value, pointer(builder, where, ir.FloatType()), align=FLOAT)


@instruction(types.float32, lanes)
def total(builder, value):
    """The sum over the lanes, added up by halves."""
    width = LANES // 2
    while width:
        order = ir.Constant(_ints, [(lane + width) % LANES for lane in range(LANES)])
        value = builder.fadd(value, builder.shuffle_vector(value, ir.Constant(floats, ir.Undefined), order))
        width //= 2
    return builder.extract_element(value, ir.IntType(32)(0))


_FIELDS = [
    "rows",
    "width",
    "rows_of_sample",
    "hidden",
    "hidden_is_bf16",
    "residual",
    "factors",
    "weight",
    "sum",
    "normed",
    "normed_is_bf16",
    "inverse_rms",
    "dsum",
    "dnormed",
    "dresidual",
    "dhidden",
    "dweights",
    "dweight",
    "taken",
    "done",
]
# numba's cache watches this file alone; a field named after the contents of the other makes an edit there
# another signature.
_digest = hashlib.sha256(Path(lanes_file.__file__).read_bytes()).hexdigest()[:12]
JOB = np.dtype(
    [("eps", np.float64), *((name, np.int64) for name in _FIELDS), (f"lanes_{_digest}", np.int64)], align=True
)
_job_type = from_dtype(JOB)


@jit
def _load(where, channel, is_bf16):
    """LANES channels of a row, from the ``channel``-th."""
    return load_bf16(where + channel * HALF) if is_bf16 else load(where + channel * FLOAT)


@jit
def _store(where, channel, is_bf16, value):
    if is_bf16:
        store_bf16(where + channel * HALF, value)
    else:
        store(where + channel * FLOAT, value)


@jit
def _size(is_bf16):
    return HALF if is_bf16 else FLOAT


@jit
def _drop_path(job, row):
    """What the sample's ``hidden`` is multiplied by."""
    return load_number(job.factors + row // job.rows_of_sample * FLOAT) if job.factors else np.float32(1)


@jit
def _forward_row(job, row):
    at = row * job.width * FLOAT
    hidden = job.hidden + row * job.width * _size(job.hidden_is_bf16)
    normed = job.normed + row * job.width * _size(job.normed_is_bf16)
    factor = _drop_path(job, row)
    squares = splat(0.0)
    for channel in range(0, job.width, LANES):
        x = _load(hidden, channel, job.hidden_is_bf16)
        if job.residual:
            x = fma(x, splat(factor), load(job.residual + at + channel * FLOAT))
        store(job.sum + at + channel * FLOAT, x)
        squares = fma(x, x, squares)
    inverse = np.float32(1 / math.sqrt(total(squares) / job.width + job.eps))
    store_number(job.inverse_rms + row * FLOAT, inverse)
    for channel in range(0, job.width, LANES):
        x = load(job.sum + at + channel * FLOAT)
        _store(normed, channel, job.normed_is_bf16, x * splat(inverse) * load(job.weight + channel * FLOAT))


@jit
def _backward_row(job, row, dweight):
    at = row * job.width * FLOAT
    dnormed = job.dnormed + row * job.width * _size(job.normed_is_bf16)
    dhidden = job.dhidden + row * job.width * _size(job.hidden_is_bf16)
    factor = _drop_path(job, row)
    inverse = load_number(job.inverse_rms + row * FLOAT)
    dots = splat(0.0)
    for channel in range(0, job.width, LANES):
        scaled = load(job.sum + at + channel * FLOAT) * splat(inverse)
        dy = _load(dnormed, channel, job.normed_is_bf16)
        here = dweight + channel * FLOAT
        store(here, fma(dy, scaled, load(here)))
        dots = fma(dy * load(job.weight + channel * FLOAT), scaled, dots)
    mean = np.float32(total(dots) / job.width)
    for channel in range(0, job.width, LANES):
        scaled = load(job.sum + at + channel * FLOAT) * splat(inverse)
        dy = _load(dnormed, channel, job.normed_is_bf16) * load(job.weight + channel * FLOAT)
        dx = fma(scaled, splat(np.float32(-mean)), dy) * splat(inverse)
        if job.dsum:
            dx = dx + load(job.dsum + at + channel * FLOAT)
        store(job.dresidual + at + channel * FLOAT, dx)
        if job.dhidden:
            _store(dhidden, channel, job.hidden_is_bf16, dx * splat(factor))


@jit
def _add_blocks(job, blocks):
    """dweight: the sum of all blocks'."""
    for channel in range(0, job.width, LANES):
        sum_of_blocks = splat(0.0)
        for block in range(blocks):
            sum_of_blocks = sum_of_blocks + load(job.dweights + (block * job.width + channel) * FLOAT)
        store(job.dweight + channel * FLOAT, sum_of_blocks)


def _run(pointer_to_job):
    """Every thread takes blocks until none is left; who finishes the last one adds up."""
    job = carray(pointer_to_job, 1)[0]
    blocks = (job.rows + ROWS - 1) // ROWS
    block = count(job.taken)
    while block < blocks:
        end = min((block + 1) * ROWS, job.rows)
        if job.dnormed:
            dweight = job.dweights + block * job.width * FLOAT
            for channel in range(0, job.width, LANES):
                store(dweight + channel * FLOAT, splat(0.0))
            for row in range(block * ROWS, end):
                _backward_row(job, row, dweight)
            if count(job.done) == blocks - 1:
                _add_blocks(job, blocks)
        else:
            for row in range(block * ROWS, end):
                _forward_row(job, row)
        block = count(job.taken)


_compiled = entry(types.void(types.CPointer(_job_type)), quietly=True, cache=True)(_run)


def _call(
    shape: torch.Size, eps: float, hidden_dtype: torch.dtype, normed_dtype: torch.dtype, **tensors: Tensor
) -> None:
    """Runs the kernel on contiguous tensors, which the job names."""
    job = np.zeros(1, JOB)
    batch, length, width = shape
    job["rows"], job["width"], job["rows_of_sample"], job["eps"] = batch * length, width, length, eps
    job["hidden_is_bf16"] = hidden_dtype == torch.bfloat16
    job["normed_is_bf16"] = normed_dtype == torch.bfloat16
    counters = np.zeros(16, np.int64)  # two, each in a cache line of its own
    job["taken"], job["done"] = counters.ctypes.data, counters[8:].ctypes.data
    for name, tensor in tensors.items():
        job[name] = tensor.data_ptr()
    run_on_threads(_compiled.address, job.ctypes.data, torch.get_num_threads())


def add_and_norm(
    residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum (B, L, D) in float32, the normed sum in ``dtype``, and 1 / rms of each token (B, L).

    hidden (B, L, D) and ``dtype`` float32 or bfloat16, the others float32; D a multiple of LANES.
    """
    hidden, weight = hidden.contiguous(), weight.contiguous()
    added = torch.empty_like(hidden, dtype=torch.float32)
    normed = torch.empty_like(hidden, dtype=dtype)
    inverse_rms = torch.empty(hidden.shape[:2])
    optional = {"residual": residual, "factors": drop_path}
    given = {name: tensor.contiguous() for name, tensor in optional.items() if tensor is not None}
    _call(
        hidden.shape, eps, hidden.dtype, dtype,
        hidden=hidden, weight=weight, sum=added, normed=normed, inverse_rms=inverse_rms, **given,
    )  # fmt: skip
    return added, normed, inverse_rms


def add_and_norm_backward(
    dsum: Tensor | None,
    dnormed: Tensor,
    added: Tensor,
    inverse_rms: Tensor,
    drop_path: Tensor | None,
    weight: Tensor,
    hidden_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of residual, hidden and weight from those of the sum (None: zero) and of the normed sum.

    hidden's is empty without a ``hidden_dtype``, for those who can do with residual's.
    """
    dnormed, weight = dnormed.contiguous(), weight.contiguous()
    dresidual = torch.empty_like(added)
    dhidden = torch.empty_like(added, dtype=hidden_dtype) if hidden_dtype else torch.empty(0)
    dweight = torch.zeros_like(weight)
    dweights = torch.empty(-(-inverse_rms.numel() // ROWS), len(weight))
    optional = {"dsum": dsum, "factors": drop_path, "dhidden": dhidden if hidden_dtype else None}
    given = {name: tensor.contiguous() for name, tensor in optional.items() if tensor is not None}
    _call(
        added.shape, 0.0, dhidden.dtype, dnormed.dtype,
        dnormed=dnormed, sum=added, inverse_rms=inverse_rms, weight=weight,
        dresidual=dresidual, dweights=dweights, dweight=dweight, **given,
    )  # fmt: skip
    return dresidual, dhidden, dweight
