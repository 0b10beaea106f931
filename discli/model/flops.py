"""Counting arithmetic: what every part's own ``flops`` is made of."""


def matmul_flops(rows: int, inner: int, columns: int) -> int:
    """Of (rows, inner) @ (inner, columns): a multiply-add counts as two operations."""
    return 2 * rows * inner * columns
