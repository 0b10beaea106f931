"""The Frechet distance between two Gaussians (Dowson and Landau, 1982), in float64."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from discli.evaluation.moments import Gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), FID's formula (arXiv:1706.08500, eq. 6).

    Symmetric; zero for equal arguments up to rounding, also where the covariances are singular.
    """
    # The side with fewer rows has the smaller rank, and the eigenproblem shrinks to that rank.
    few, many = (a, b) if (a.n or a.dim) <= (b.n or b.dim) else (b, a)
    return FrechetTo(few).distance(many)


class FrechetTo:
    """Distances of many Gaussians to one: its square root is taken once.

    ``within`` (D, q), orthonormal, promises that the covariances of all of them lie in its span, as
    those of subsets of q + 1 samples do; the eigenproblem is then q x q and the result the same.
    """

    def __init__(self, reference: Gaussian, within: Tensor | None = None) -> None:
        self._reference = reference
        if within is None:
            self._root = square_root_factor(reference.covariance)
        else:
            self._root = within @ square_root_factor(within.T @ reference.covariance @ within)

    def distance(self, other: Gaussian) -> float:
        # With S_r = R R^T, the product S_r S has the non-zero eigenvalues of the symmetric,
        # positive semidefinite R^T S R: no complex numbers, no iteration that may diverge.
        inner = self._root.T @ other.covariance @ self._root
        with _one_thread():
            eigenvalues = torch.linalg.eigvalsh((inner + inner.T) / 2)
        trace_root = eigenvalues.clamp(min=0).sqrt().sum()
        gap = self._reference.mean - other.mean
        traces = self._reference.covariance.trace() + other.covariance.trace()
        return float(gap @ gap + traces - 2 * trace_root)


def square_root_factor(covariance: Tensor) -> Tensor:
    """R (D, rank) with R R^T = covariance; directions that are rounding noise are dropped."""
    with _one_thread():
        eigenvalues, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    noise = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(torch.float64).eps
    kept = eigenvalues > noise
    root: Tensor = vectors[:, kept] * eigenvalues[kept].sqrt()
    return root


@contextmanager
def _one_thread() -> Iterator[None]:
    """Eigensolvers gain little from more threads and lose much where these wait for a busy core.

    Measured at D = 2048 on two cores that others use too: 1.6 s with one thread, 35 s with two. And the
    last digits no longer depend on how many cores there are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
