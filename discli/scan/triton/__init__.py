"""The scan's kernels for GPUs, in Triton."""
