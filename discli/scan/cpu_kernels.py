"""The compiled entry point: what all threads run, from the first phase of a pass to the last."""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import os
from typing import NamedTuple

from numba import carray, cfunc, types

from discli.scan.cpu_backward import convolve_backward, scan_backward, sum_groups, sum_samples
from discli.scan.cpu_forward import convolve, scan
from discli.scan.cpu_job import CHUNK, GROUP, SPAN, job_type
from discli.scan.cpu_lanes import claim, count, counted, jit


class Work(NamedTuple):
    """The samples and steps under way: one chunk of each of a few samples."""

    first_sample: int
    samples: int
    first_step: int
    steps: int
    is_first: bool  # chunk of these samples, in the order of the pass
    is_last: bool


CONVOLVE, SCAN = 0, 1
SCAN_BACKWARD, SUM_GROUPS, CONVOLVE_BACKWARD, SUM_SAMPLES = 1, 2, 3, 4

if hasattr(os, "sched_yield"):
    _yield = types.ExternalFunction("sched_yield", types.intc())
else:

    @jit
    def _yield():
        return 0


@jit
def _tasks(job, work, phase):
    per_span = work.samples * ((work.steps + SPAN - 1) // SPAN)
    per_group = work.samples * ((job.vectors + GROUP - 1) // GROUP)
    if phase == CONVOLVE:
        return per_span
    if not job.is_backward_pass or phase in (SCAN_BACKWARD, CONVOLVE_BACKWARD):
        return per_group
    if phase == SUM_GROUPS:
        return per_span
    return job.gradient_rows if work.is_last else 0


@jit
def _do(job, work, phase, task, scratch):
    if phase == CONVOLVE:
        convolve(job, work, task)
    elif not job.is_backward_pass:
        scan(job, work, task, scratch)
    elif phase == SCAN_BACKWARD:
        scan_backward(job, work, task, scratch)
    elif phase == SUM_GROUPS:
        sum_groups(job, work, task)
    elif phase == CONVOLVE_BACKWARD:
        convolve_backward(job, work, task, scratch)
    else:
        sum_samples(job, work, task)


@jit
def _next_task(taken, end):
    """The next ticket before ``end``, or -1. A thread never holds a ticket that it cannot use at once,
    so one that the system has put to sleep while it waited keeps no other waiting."""
    while True:
        ticket = counted(taken)
        if ticket >= end:
            return -1
        if claim(taken, ticket):
            return ticket


def _run(pointer):
    jobs = carray(pointer, 2)
    first = jobs[0]
    taken, done, threads = first.counters, first.counters + 64, first.counters + 128
    scratch = first.scratch + count(threads) * first.scratch_bytes
    chunks = (first.length + CHUNK - 1) // CHUNK
    begin = 0
    for first_sample in range(0, first.batch, first.samples):
        samples = min(first.samples, first.batch - first_sample)
        for direction in range(2):
            job = jobs[direction]
            for i in range(chunks):
                first_step = (chunks - 1 - i if job.is_backward_pass else i) * CHUNK
                steps = min(CHUNK, job.length - first_step)
                work = Work(first_sample, samples, first_step, steps, i == 0, i == chunks - 1)
                for phase in range(5 if job.is_backward_pass else 2):
                    end = begin + _tasks(job, work, phase)
                    ticket = _next_task(taken, end)
                    while ticket >= 0:
                        _do(job, work, phase, ticket - begin, scratch)
                        count(done)
                        ticket = _next_task(taken, end)
                    while counted(done) < end:
                        _yield()
                    begin = end


_signature = types.void(types.CPointer(job_type))
try:
    run = cfunc(_signature, cache=True, error_model="numpy")(_run)
except RuntimeError:  # nowhere to write a cache: neither beside this file nor in the user's folder
    run = cfunc(_signature, error_model="numpy")(_run)
