"""The optimal loss: the least squared error of x0 that any network can reach on a data set (arXiv:2506.13763).

The best prediction is the posterior mean D(x_t) = E[x0 | x_t], here in closed form, for the data set is a sum of
points, or of Gaussians where latents are stored as mean and std. With z = x_t / a = x0 + sigma eps the posterior of
component i has the weight

    w_i ~ exp(-|z - x_i|^2 / (2 sigma^2))                                              a point x_i
    w_i ~ prod_k v_ik^(-1/2) exp(-(z_k - mu_ik)^2 / (2 v_ik)),  v = tau^2 + sigma^2    a Gaussian N(mu_i, tau_i^2)

and the mean x_i, or D_i = mu_i + tau_i^2 / v_i (z - mu_i): the product of two Gaussians of z's mean, completed to a
square. D is the sum of w_i D_i. Of a Gaussian the optimal error never falls below that of its own noise, the mean of
tau^2 sigma^2 / v, where that of points falls to 0.

**No second product.** |x0 - D|^2 would take D itself: at each noise level the weights times the data. But x0 - D is
orthogonal, on average, to all functions of z, so that its mean square is also the mean of x0 . (x0 - D), and that is
the sum of w_i (x0 . x0 - x0 . x_i): a number per pair. Those numbers, and the weights of *all* noise levels of one
(x0, eps), come of two products, x0 . x_i and eps . x_i; for Gaussians of four a level, since v differs between levels.
What is known to be 0 on average, z . (x0 - D) and |x0|^2 - E[|x0|^2 | z], then takes out most of the noise of the
noisy draws (control variates): the estimate stays the exact posterior's, only its interval becomes narrower. Of
Gaussians |x0|^2 is compared with its mean over the data set, which is as good at much noise and needs no product.

**A subset.** Where a data set is too large, a query's own component and a random subset of the others stand for all,
as in the paper (section 3), the others weighted by how many each stands for. The weighted mean of a subset is a ratio
of two estimates, whose bias falls as 1 / size: the difference from half the subset tells how large it is.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 18  # pairs worked on at once on a CPU: they stay in its cache
_BLOCK_CUDA = 1 << 25
_NEGLIGIBLE = 20.0  # e^-20 of the largest weight changes no digit that is shown


class Keys(NamedTuple):
    """Some components of the data set: ``mean`` (K, D), ``std`` (K, D) or None for points, ``number`` (K,) int64.

    A sample's mirror image has another number.
    """

    mean: Tensor
    std: Tensor | None
    number: Tensor


class Queries(NamedTuple):
    """Noisy draws, one of each component in ``own``: x0 and eps (Q, D), alike at all levels."""

    x0: Tensor
    eps: Tensor
    own: Keys


class Errors(NamedTuple):
    """Of each query at each level, (Q, L) float64, per element: an error whose mean is the optimal one of x0.

    ``zeros`` (Q, L, 2) are 0 on average, and vary with it.
    """

    error: Tensor
    zeros: Tensor


class Estimate(NamedTuple):
    """The optimal squared error of x0 per element, and its standard error; (L,) float64."""

    mean: Tensor
    std_error: Tensor


@torch.no_grad()
def errors(queries: Queries, keys: Iterable[Keys], sigmas: Sequence[float], weight: float = 1.0) -> Errors:
    """Of the posterior over ``keys``, in which a query's own component is always there and counts once.

    ``weight``: of every other component: above 1 where the keys are a random subset that stands for all.
    Memory beside the arguments: 12 bytes a pair of a query and one of the keys given at once, 4 L Q floats.
    """
    width = queries.x0.shape[1]
    sums, square, seen = _Sums(queries, sigmas), 0.0, 0
    for part in keys:
        mine = queries.own.number[:, None] == part.number
        if part.std is None:
            _add_points(sums, queries, part, mine, sigmas, math.log(weight))
        else:
            _add_gaussians(sums, queries, part, mine, sigmas, math.log(weight))
            square += float((part.mean.double() ** 2 + part.std.double() ** 2).sum())
            seen += len(part.mean)
    along_x0, along_eps, norms = (total.double() / sums.weight.double() for total in (sums.x0, sums.eps, sums.norm))
    if queries.own.std is not None:
        norms = ((queries.x0.double() ** 2).sum(1) - square / max(1, seen))[:, None].expand_as(along_x0)
    sigma = torch.tensor(sigmas, dtype=torch.float64, device=along_x0.device)
    zeros = torch.stack([along_x0 + sigma * along_eps, norms], dim=-1)
    return Errors(along_x0 / width, zeros / width)


def estimate(found: Errors) -> Estimate:
    """Mean and standard error over the queries, after the control variates (least squares at each level)."""
    count = len(found.error)
    residual = found.error - found.error.mean(0)
    controls = (found.zeros - found.zeros.mean(0)).permute(1, 0, 2)  # (L, Q, 2)
    # Scaled, for at little noise they are tiny; and where they do not vary at all they control nothing.
    size = controls.square().mean(1, keepdim=True).sqrt()
    controls = controls / size.clamp(min=1e-30)
    gram = controls.transpose(1, 2) @ controls / count + 1e-9 * torch.eye(2, dtype=torch.float64, device=size.device)
    along = controls.transpose(1, 2) @ residual.T.unsqueeze(-1) / count
    beta = torch.linalg.solve(gram, along) / size.clamp(min=1e-30).transpose(1, 2)  # (L, 2, 1)
    left = found.error - torch.einsum("qlc,lc->ql", found.zeros, beta.squeeze(-1))
    return Estimate(left.mean(0).clamp(min=0.0), left.std(0, correction=min(3, count - 1)) / math.sqrt(count))


class _Sums:
    """Weighted sums over the components seen so far, relative to the largest weight; (Q, L) float32.

    Begins with the queries' own components, worked out element by element, for they matter most.
    """

    def __init__(self, queries: Queries, sigmas: Sequence[float]) -> None:
        x0, eps, own = queries
        shape = (len(x0), len(sigmas))
        self.top, self.weight = x0.new_zeros(shape), x0.new_ones(shape)
        self.x0, self.eps, self.norm = (x0.new_zeros(shape) for _ in range(3))
        if own.std is None:  # its own point is at distance 0
            self.offset = x0.new_zeros(shape)
            return
        offsets = []
        for level, sigma in enumerate(sigmas):
            mean, std, noisy = own.mean.double(), own.std.double(), x0.double() + sigma * eps.double()
            v = std**2 + sigma**2
            error = -sigma * eps + sigma**2 * (noisy - mean) / v
            self.x0[:, level], self.eps[:, level] = (x0 * error).sum(1), (eps * error).sum(1)
            offsets.append(-0.5 * ((noisy - mean) ** 2 / v + v.log()).sum(1))
        self.offset = torch.stack(offsets, dim=1)  # float64: logits are relative to the own component's

    def add(self, level: int, rows: slice, logits: Tensor, x0: Tensor, eps: Tensor, norm: Tensor | None) -> None:
        """Components of these ``logits``, (q, K), in place; what they are weighted sums of, (q, K) each."""
        before = self.top[rows, level]
        top = torch.maximum(before, logits.amax(1))
        # At little noise nearly every row has one component that is all.
        matter = (logits.amax(1) > before - _NEGLIGIBLE).nonzero().squeeze(1)
        if not len(matter):
            return
        if len(matter) < len(logits):
            logits, x0, eps = logits[matter], x0[matter], eps[matter]
            norm = None if norm is None else norm[matter]
        place = matter + rows.start
        weights = logits.sub_(top[matter, None]).exp_()
        scale = (before[matter] - top[matter]).exp()
        self.top[place, level] = top[matter]
        for total, values in ((self.x0, x0), (self.eps, eps), (self.norm, norm)):
            if values is not None:
                total[place, level] = total[place, level] * scale + torch.linalg.vecdot(weights, values)
        self.weight[place, level] = self.weight[place, level] * scale + weights.sum(1)


def _add_points(
    sums: _Sums, queries: Queries, keys: Keys, mine: Tensor, sigmas: Sequence[float], log_weight: float
) -> None:
    x0, eps, _ = queries
    along_x0 = (x0 * x0).sum(1, keepdim=True) - x0 @ keys.mean.T
    along_eps = (eps * x0).sum(1, keepdim=True) - eps @ keys.mean.T
    norm = (x0 * x0).sum(1, keepdim=True) - (keys.mean * keys.mean).sum(1)
    distance = (2 * along_x0 - norm).masked_fill_(mine, math.inf)
    for rows in _rows(distance):
        logits = torch.empty_like(distance[rows])
        for level, sigma in enumerate(sigmas):
            torch.mul(distance[rows], -0.5 / sigma**2, out=logits)
            logits.add_(along_eps[rows], alpha=-1 / sigma).add_(log_weight)
            sums.add(level, rows, logits, along_x0[rows], along_eps[rows], norm[rows])


def _add_gaussians(
    sums: _Sums, queries: Queries, keys: Keys, mine: Tensor, sigmas: Sequence[float], log_weight: float
) -> None:
    x0, eps, _ = queries
    assert keys.std is not None
    count = len(x0)
    constant = (x0 * eps).sum(1, keepdim=True), (eps * eps).sum(1, keepdim=True)
    for level, sigma in enumerate(sigmas):
        noisy = x0 + sigma * eps
        v = keys.std**2 + sigma**2
        # Rows z z, x0 z and eps z with 1 / v; x0 and eps with mu / v; z's own follow.
        along = torch.cat([x0 * noisy, eps * noisy]) @ (1 / v).T
        across = torch.cat([x0, eps]) @ (keys.mean / v).T
        x0_a, eps_a = along[:count], along[count:]
        x0_b, eps_b = across[:count], across[count:]
        rest = (keys.mean**2 / v + v.log()).sum(1)
        far = x0_a + sigma * eps_a - 2 * (x0_b + sigma * eps_b) + rest
        logits = (log_weight - 0.5 * far - sums.offset[:, level, None]).float().masked_fill_(mine, -math.inf)
        along_x0 = sigma**2 * (x0_a - x0_b) - sigma * constant[0]
        along_eps = sigma**2 * (eps_a - eps_b) - sigma * constant[1]
        for rows in _rows(logits):
            sums.add(level, rows, logits[rows], along_x0[rows], along_eps[rows], None)


def _rows(pairs: Tensor) -> Iterable[slice]:
    step = max(1, (_BLOCK_CUDA if pairs.is_cuda else _BLOCK) // max(1, pairs.shape[1]))
    return (slice(start, min(start + step, len(pairs))) for start in range(0, len(pairs), step))
