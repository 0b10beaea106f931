"""What the kernels are told: a record of addresses and sizes for each direction.

Rows are counted in steps, the order in which a direction walks the tokens: step 0 of the backward
direction is the last token, and its strides are negative. E here is padded to whole blocks of vectors, N
to an even number. Addresses and strides are in bytes.
"""

import hashlib
from pathlib import Path

import numpy as np
from numba import from_dtype

from discli.scan.cpu.lanes import LANES, VECTOR

CHUNK = 128  # steps of a sample under way at a time, and between two states kept for the backward pass
SPAN = 16  # steps that the recurrence takes at once for two states after another; their rows have to fit in L1
PIECE = 32  # steps of a task that takes all channels
GROUP = 64 // LANES  # vectors of channels per task: 256 bytes of every row; its tiles of a chunk have to fit in L2
BLOCK = 4 if LANES == 16 else 2  # vectors of a group that the recurrence takes at once: E is padded to these
STRIP = 8  # steps that a convolution takes at once: rows of memory, which must not drive each other out of L1

_FIELDS = [
    "is_backward_pass",
    "is_last_direction",
    "whole_samples",
    "is_bf16",
    "phases",
    "batch",
    "samples",
    "length",
    "width",
    "vectors",
    "row_vectors",
    "states",
    "kept_states",
    "taps",
    "rank",
    "rank_columns",
    "columns",
    "gradient_rows",
    "counters",
    "scratch",
    "scratch_bytes",
    "x",
    "x_sample",
    "x_step",
    "z",
    "z_sample",
    "z_step",
    "y",
    "y_sample",
    "y_step",
    "y_sum",
    "y_sum_sample",
    "y_sum_step",
    "conv_weight",
    "conv_bias",
    "x_proj_in",
    "x_proj_out",
    "dt_in",
    "dt_out",
    "dt_bias",
    "decay_rate",
    "skip",
    "inner",
    "inner_sample",
    "projected",
    "projected_sample",
    "saved",
    "saved_sample",
    "dy",
    "dy_sample",
    "dy_step",
    "dx",
    "dx_sample",
    "dx_step",
    "dx_sum",
    "dx_sum_sample",
    "dx_sum_step",
    "dz",
    "dz_sample",
    "dz_step",
    "dz_sum",
    "dz_sum_sample",
    "dz_sum_step",
    "partial",
    "partial_group",
    "partial_sample",
    "dstate",
    "gradients",
    "gradients_sample",
    "totals",
    "drate",
    "dskip",
    "ddt_bias",
    "ddt_weight",
    "dx_proj",
    "dconv_weight",
    "dconv_bias",
]

# numba's cache watches the file of the compiled entry point alone; naming a field after the contents
# of all kernel files makes an edit in any of them a new signature.
_kernels = sorted(Path(__file__).parent.glob("*.py"))
_digest = hashlib.sha256(b"".join(path.read_bytes() for path in _kernels)).hexdigest()[:12]

JOB = np.dtype([(name, np.int64) for name in [*_FIELDS, f"sources_{_digest}"]], align=True)
job_type = from_dtype(JOB)


def kept_states(length: int, states: int) -> int:
    """The states n whose decays of a chunk the backward pass keeps at once: in short samples more, which costs
    less memory beside the batch that they come in, and all tiles are walked less often."""
    return min(states, 4 if length >= CHUNK else 16)


def scratch_bytes(states: int, kept: int) -> int:
    """What one thread needs: tiles of a chunk, the decays of ``kept`` states, the state before and after each
    span, and the buffers of a span. The convolution gets by with two of those tiles."""
    return VECTOR * (GROUP * (7 * CHUNK + CHUNK * kept + (CHUNK // SPAN + 1) * states) + SPAN * (BLOCK * 2 + 2 * 2))
