"""The compiled entry point: what all threads run, from the first phase of a pass to the last."""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

import os
from typing import NamedTuple

from numba import carray, types

from discli.scan.cpu.backward import scan_backward, sum_groups, sum_samples
from discli.scan.cpu.backward_conv import convolve_backward
from discli.scan.cpu.compiler import entry, jit, kernel
from discli.scan.cpu.forward import convolve, scan
from discli.scan.cpu.job import CHUNK, GROUP, PIECE, job_type
from discli.scan.cpu.lanes import claim, count, counted


class Work(NamedTuple):
    """The samples and steps under way: one chunk of each of a few samples, and where their memory lies."""

    first_sample: int
    first_slot: int
    samples: int
    first_step: int
    steps: int
    is_first: bool  # chunk of these samples, in the order of the pass


_SPINS = 50_000  # some 50 microseconds
CONVOLVE, SCAN, SUM_GROUPS, CONVOLVE_BACKWARD = range(4)  # what is done with one chunk, in this order
FORWARD_PHASES, BACKWARD_PHASES = range(2), range(4)

if os.name == "posix":
    _usleep = types.ExternalFunction("usleep", types.intc(types.uintc))
else:

    @jit
    def _usleep(microseconds):
        return 0


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


@jit
def _wait(done, end):
    """The others are a task behind at most, so this spins; but not for long, because on a busy machine
    they may be waiting for this very core, and would get it no sooner than the next timer tick."""
    spins = 0
    while counted(done) < end:
        spins += 1
        if spins > _SPINS:
            _usleep(50)


@jit
def _tasks(job, work, phase, to_sum):
    pieces = work.samples * ((work.steps + PIECE - 1) // PIECE)
    if phase == CONVOLVE:
        return pieces + (job.gradient_rows if job.is_backward_pass and to_sum > 0 else 0)
    if phase == SUM_GROUPS:
        return 0 if job.whole_samples else pieces
    return work.samples * ((job.vectors + GROUP - 1) // GROUP)


@kernel
def _do(job, other, work, phase, to_sum, task, scratch):
    if phase == CONVOLVE:
        # The gradients of the direction before are added up meanwhile.
        summing = job.gradient_rows if job.is_backward_pass and to_sum > 0 else 0
        if task < summing:
            sum_samples(other, to_sum, task)
        else:
            convolve(job, work, task - summing)
    elif phase == SUM_GROUPS:
        sum_groups(job, work, task)
    elif phase == CONVOLVE_BACKWARD:
        convolve_backward(job, work, task, scratch)
    elif job.is_backward_pass:
        scan_backward(job, work, task, scratch)
    else:
        scan(job, work, task, scratch)


@jit
def _chunk(job, first_sample, first_slot, samples, i):
    """The i-th chunk of a pass; the backward pass begins with the last."""
    chunks = (job.length + CHUNK - 1) // CHUNK
    first_step = (chunks - 1 - i if job.is_backward_pass else i) * CHUNK
    return Work(first_sample, first_slot, samples, first_step, min(CHUNK, job.length - first_step), i == 0)


@jit
def _each_thread_a_sample(jobs, taken, done, scratch):
    """With samples for all threads: nobody waits for anybody within one direction of one sample."""
    job = jobs[0]
    chunks = (job.length + CHUNK - 1) // CHUNK
    end = 0
    for first_sample in range(0, job.batch, job.samples):
        samples = min(job.samples, job.batch - first_sample)
        for direction in range(2):
            job = jobs[direction]
            begin, end = end, end + samples
            ticket = _next_task(taken, end)
            while ticket >= 0:
                slot = ticket - begin
                for i in range(chunks):
                    work = _chunk(job, first_sample + slot, slot, 1, i)
                    for phase in range(job.phases):
                        for task in range(_tasks(job, work, phase, 0)):
                            _do(job, job, work, phase, 0, task, scratch)
                count(done)
                ticket = _next_task(taken, end)
            _wait(done, end)
            end = _sum_gradients(job, samples if chunks > 0 else 0, taken, done, end)


@jit
def _all_threads_a_sample(jobs, taken, done, scratch):
    """With fewer samples than threads: every phase of a chunk is shared out by groups of channels."""
    job = jobs[0]
    chunks = (job.length + CHUNK - 1) // CHUNK
    end = 0
    to_sum = 0  # samples whose gradients wait to be added to the total
    for first_sample in range(0, job.batch, job.samples):
        samples = min(job.samples, job.batch - first_sample)
        for direction in range(2):
            job, other = jobs[direction], jobs[1 - direction]
            for i in range(chunks):
                work = _chunk(job, first_sample, 0, samples, i)
                for phase in range(job.phases):
                    begin, end = end, end + _tasks(job, work, phase, to_sum)
                    ticket = _next_task(taken, end)
                    while ticket >= 0:
                        _do(job, other, work, phase, to_sum, ticket - begin, scratch)
                        count(done)
                        ticket = _next_task(taken, end)
                    _wait(done, end)
                    to_sum = 0
            to_sum = samples if chunks > 0 else 0
    _sum_gradients(jobs[1], to_sum, taken, done, end)


@jit
def _sum_gradients(job, samples, taken, done, end):
    """Adds the gradients of the samples just done to the total; returns the next free ticket."""
    if not job.is_backward_pass or samples == 0:
        return end
    begin, end = end, end + job.gradient_rows
    ticket = _next_task(taken, end)
    while ticket >= 0:
        sum_samples(job, samples, ticket - begin)
        count(done)
        ticket = _next_task(taken, end)
    _wait(done, end)
    return end


def _run(pointer):
    """Every thread walks through the same tasks, takes what it can get and waits for the others'.

    Tickets are numbered through; those of a phase lie between ``begin`` and ``end``.
    """
    jobs = carray(pointer, 2)
    taken, done, threads = jobs[0].counters, jobs[0].counters + 64, jobs[0].counters + 128
    scratch = jobs[0].scratch + count(threads) * jobs[0].scratch_bytes
    if jobs[0].whole_samples:
        _each_thread_a_sample(jobs, taken, done, scratch)
    else:
        _all_threads_a_sample(jobs, taken, done, scratch)


run = entry(types.void(types.CPointer(job_type)), cache=True)(_run)
