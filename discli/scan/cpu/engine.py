"""Gives the CPU kernels their memory and runs them."""

import numpy as np
import torch
from torch import Tensor

from discli.scan.cpu.job import CHUNK, JOB, kept_states, scratch_bytes
from discli.scan.cpu.kernels import BACKWARD_PHASES, FORWARD_PHASES, run
from discli.scan.cpu.lanes import FLOAT, LANES
from discli.scan.cpu.layout import (
    Sizes,
    dtype_of_rows,
    from_rows,
    pack_for_backward,
    pack_for_forward,
    to_rows,
    unpack_gradients,
)
from discli.scan.cpu.threads import run_on_threads
from discli.scan.reference import DirectionParams

_TASKS_PER_THREAD = 3  # at least, in the phases that count
_SHORT = 64  # steps: samples that have fewer


def scan_forward(x: Tensor, z: Tensor | None, directions: list[DirectionParams]) -> tuple[Tensor, Tensor, Tensor]:
    """x and z (B, L, E) to y (B, L, E), and for `scan_backward` x_proj's output and the saved states (`Sizes`).

    Without z, x (B, L, 2E) holds both.
    """
    sizes = Sizes.of(x, directions[0])
    x, z = (x, z) if z is not None else x.chunk(2, dim=-1)
    dtype = dtype_of_rows(x, z)
    y = torch.empty(sizes.batch, sizes.length, sizes.row_width, dtype=dtype)
    projected, saved = torch.empty(sizes.projected_shape), torch.empty(sizes.saved_shape)
    call = _Call(sizes, is_backward_pass=False)
    call.walk(x=to_rows(x, sizes, dtype), z=to_rows(z, sizes, dtype), y=y, y_sum=call.sums(y))
    call.share(projected=projected, saved=saved)
    call.weights([pack_for_forward(p, sizes) for p in directions])
    call.run()
    return from_rows(y, like=x), projected, saved


def scan_backward(
    dy: Tensor, x: Tensor, z: Tensor | None, directions: list[DirectionParams], projected: Tensor, saved: Tensor
) -> tuple[list[Tensor], list[DirectionParams]]:
    """The gradients of x and z, or of x alone where it holds both, and of both directions' parameters."""
    sizes = Sizes.of(x, directions[0])
    shape = (sizes.batch, sizes.length, sizes.row_width)
    if z is None:
        x, z = x.chunk(2, dim=-1)
        dtype = dtype_of_rows(x, z)
        results = [torch.empty(*shape[:2], 2, shape[2], dtype=dtype)]
        dx, dz = results[0].unbind(2)
    else:
        dtype = dtype_of_rows(x, z)
        results = [torch.empty(shape, dtype=dtype) for _ in range(2)]
        dx, dz = results
    totals = torch.zeros(2, sum(sizes.gradient_rows.values()), sizes.width)
    call = _Call(sizes, is_backward_pass=True)
    call.walk(x=to_rows(x, sizes, dtype), z=to_rows(z, sizes, dtype), dy=to_rows(dy, sizes, dtype))
    call.walk(dx=dx, dx_sum=call.sums(dx).zero_(), dz=dz, dz_sum=call.sums(dz))
    call.share(projected=projected, saved=saved, totals=totals)
    call.weights([pack_for_backward(p, sizes) for p in directions])
    call.run()
    del call  # before the gradients are copied into place
    gradients = [unpack_gradients(rows, p, sizes) for rows, p in zip(totals, directions, strict=True)]
    return [from_rows(rows, like) for rows, like in zip(results, (x, z), strict=False)], gradients


class _Call:
    """One call's memory, and a record for each direction that tells the kernels where it is."""

    def __init__(self, sizes: Sizes, *, is_backward_pass: bool) -> None:
        self.sizes = sizes
        self.fields: dict[str, tuple[int, int]] = {}  # of the two records
        self.memory: list[object] = []  # what the records point to
        self.threads = torch.get_num_threads()
        steps = max(1, min(sizes.length, CHUNK))
        # Short samples are better shared out many at a time: their gradients then are added up less often.
        evenly = sizes.batch % self.threads == 0 or sizes.batch >= 2 * self.threads
        whole_samples = evenly and sizes.length >= _SHORT
        if whole_samples:
            samples = self.threads
        else:
            samples = max(-(-_TASKS_PER_THREAD * self.threads // sizes.groups), 2 * _SHORT // steps)
            samples = max(1, min(samples, sizes.batch))
        self.samples = samples
        self._set(is_backward_pass=is_backward_pass, batch=sizes.batch, samples=samples, length=sizes.length)
        self._set(whole_samples=whole_samples, phases=len(BACKWARD_PHASES if is_backward_pass else FORWARD_PHASES))
        self._set(
            width=sizes.width, vectors=sizes.width // LANES, row_vectors=sizes.row_width // LANES, states=sizes.states
        )
        self._set(taps=sizes.d_conv, rank=sizes.dt_rank, rank_columns=sizes.rank_columns, columns=sizes.columns)
        self.fields["is_last_direction"] = (False, True)

        counters = np.zeros(24, np.int64)  # three of them, each in a cache line of its own
        self.memory.append(counters)
        kept = kept_states(sizes.length, sizes.states) if is_backward_pass else 0
        scratch = self._allocate("scratch", self.threads, scratch_bytes(sizes.states, kept) // FLOAT)
        self._set(counters=counters.ctypes.data, kept_states=kept, scratch_bytes=scratch.stride(0) * FLOAT)
        inner = self._allocate("inner", samples, steps, sizes.width)
        self._set(inner_sample=inner.stride(0) * FLOAT)
        if is_backward_pass:
            # One thread takes the groups of a sample in turn and adds up in place; many need a place for each.
            groups = 1 if whole_samples else sizes.groups
            partial = self._allocate("partial", groups, samples, steps, sizes.columns)
            self._set(partial_group=0 if whole_samples else partial.stride(0) * FLOAT)
            self._set(partial_sample=partial.stride(1) * FLOAT)
            self._allocate("dstate", samples, sizes.width * sizes.states)
            rows = sizes.gradient_rows
            gradients = self._allocate("gradients", samples, sum(rows.values()), sizes.width)
            self._set(gradient_rows=sum(rows.values()), gradients_sample=gradients.stride(0) * FLOAT)
            offsets = np.cumsum([0, *rows.values()]) * gradients.stride(1) * FLOAT
            self._set(**dict(zip(rows, offsets.tolist(), strict=False)))

    def walk(self, **rows_BLE: Tensor) -> None:
        """Tensors that the second direction reads or writes from the last token to the first."""
        for name, tensor in rows_BLE.items():
            self.memory.append(tensor)
            sample, token, _ = (stride * tensor.element_size() for stride in tensor.stride())
            last = tensor.data_ptr() + (self.sizes.length - 1) * token
            self.fields[name] = (tensor.data_ptr(), last)
            self.fields[f"{name}_step"] = (token, -token)
            self._set(**{f"{name}_sample": sample})

    def sums(self, rows_BLE: Tensor) -> Tensor:
        """float32 rows in which both directions add up: those of the result, or of the samples under way."""
        is_bf16 = rows_BLE.dtype == torch.bfloat16
        self._set(is_bf16=is_bf16)
        return torch.empty(self.samples, *rows_BLE.shape[1:]) if is_bf16 else rows_BLE

    def share(self, **stacked: Tensor) -> None:
        """Tensors with one half for each direction, then samples."""
        for name, tensor in stacked.items():
            self.memory.append(tensor)
            first = tensor.data_ptr()
            self.fields[name] = (first, first + tensor.stride(0) * FLOAT)
            self._set(**{f"{name}_sample": tensor.stride(1) * FLOAT})

    def weights(self, packed: list[dict[str, Tensor]]) -> None:
        self.memory.append(packed)
        first, second = packed
        for name, tensor in first.items():
            self.fields[name] = (tensor.data_ptr(), second[name].data_ptr())

    def run(self) -> None:
        jobs = np.array([self.fields.get(name, (0, 0)) for name in JOB.names or ()], np.int64).T.copy()
        run_on_threads(run.address, jobs.ctypes.data, self.threads)

    def _allocate(self, name: str, *shape: int) -> Tensor:
        tensor = torch.empty(shape)
        self.memory.append(tensor)
        self._set(**{name: tensor.data_ptr()})
        return tensor

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self.fields[name] = (value, value)
