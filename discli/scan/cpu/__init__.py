"""The scan's kernels for CPUs, compiled by numba."""
