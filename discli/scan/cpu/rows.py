"""Rows of x, z, dy and what is made of them: float32 or bf16 in memory, float32 in registers.

Where rows are bf16, ``job.is_bf16`` is 1 and a channel lies at half the offset that it has in the other
rows and tiles. What both directions add up stays float32: in the output itself, or else in a buffer
for the samples under way, from which the last direction rounds once.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from discli.scan.cpu.compiler import jit
from discli.scan.cpu.lanes import VECTOR, load, load_bf16, prefetch, splat, store, store_bf16

AHEAD = 6  # steps from what is fetched to what is needed


@jit
def load_row(job, row, at):
    """The vector at offset ``at`` of a float32 row."""
    return load_bf16(row + (at >> 1)) if job.is_bf16 else load(row + at)


@jit
def store_row(job, row, at, value):
    if job.is_bf16:
        store_bf16(row + (at >> 1), value)
    else:
        store(row + at, value)


@jit
def row_before(job, row, step_size, at, step):
    """As `load_row`, from ``step`` steps after ``row``; zero before the first step."""
    return load_row(job, row + step * step_size, at) if step >= 0 else splat(0.0)


@jit
def in_row(job, first_vector, vectors):
    """How many of a task's vectors rows have: the last group's may be more, with weights of zeros."""
    return min(vectors, job.row_vectors - first_vector)


@jit
def fetch_row(row, size):
    """A task's part of a row of memory, which the processor does not foresee: the next row is far away."""
    for offset in range(0, size, VECTOR):
        prefetch(row + offset)


@jit
def place_of_sums(job, work, place):
    """Where in y_sum, dx_sum and dz_sum the sample lies that is the ``place``-th under way."""
    return (work.first_slot if job.is_bf16 else work.first_sample) + place
