"""Quasi-separable matrices times x, chunk by chunk, in matrix products of plain PyTorch (arXiv:2407.09941)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Triangle(NamedTuple):
    """Below or above the diagonal: entry (t, s) is c_t . b_s, times exp(log_a) of each token strictly between."""

    c: Tensor  # (B, L, H, N)
    log_a: Tensor  # (B, L, H), at most 0
    b: Tensor  # (B, L, H, N)


def quasiseparable(x_BLHP: Tensor, diagonal_BLH: Tensor, lower: Triangle, upper: Triangle, chunk: int) -> Tensor:
    """y (B, L, H, P), y_t = sum over s of M_ts x_s with a matrix M (L, L) for each head, at a cost linear in L.

    Each token hears those before it through ``lower``, itself through ``diagonal`` and those after it through
    ``upper`` (section 3.1): a scan in either direction of the same x. Inside a chunk M is written out, so that
    both directions are one product with x; between chunks each hands on states. Of L tokens, any number, no
    chunk has more than ``chunk``. Decays, states and y are in the dtype of ``log_a``, products in whatever
    autocast makes of them.
    """
    L = x_BLHP.shape[1]
    count = -(-L // chunk)
    Q = -(-L // count)

    def chunks(t_BL: Tensor) -> Tensor:
        """(B, L, H, ...) to (B, c, H, Q, ...). The zeros at the end change nothing before them."""
        padding = (0, 0) * (t_BL.ndim - 2) + (0, count * Q - L)
        padded = t_BL if count * Q == L else torch.nn.functional.pad(t_BL, padding)
        split: Tensor = padded.unflatten(1, (count, Q)).transpose(2, 3)
        return split

    x, (c_low, log_low, b_low), (c_up, log_up, b_up) = chunks(x_BLHP), map(chunks, lower), map(chunks, upper)
    # Sums of log_a from a chunk's beginning: with a token's own, and without it.
    upto_low, upto_up = log_low.cumsum(-1), log_up.cumsum(-1)
    before_low, before_up = (torch.nn.functional.pad(upto, (1, -1)) for upto in (upto_low, upto_up))

    # Masked before exp: what lies on the wrong side could overflow, and its gradient be no number.
    tokens = torch.arange(Q, device=x.device)
    is_lower = tokens.unsqueeze(-1) > tokens
    of_lower = before_low.unsqueeze(-1) - upto_low.unsqueeze(-2)
    of_upper = before_up.unsqueeze(-2) - upto_up.unsqueeze(-1)
    diagonal = torch.eye(Q, dtype=torch.bool, device=x.device)
    decays = torch.where(is_lower, of_lower, of_upper).masked_fill(diagonal, -torch.inf).exp()
    scores = torch.where(is_lower, c_low @ b_low.mT, c_up @ b_up.mT)
    y = (scores * decays) @ x + chunks(diagonal_BLH).unsqueeze(-1) * x

    if count > 1:
        whole_low, whole_up = upto_low[..., -1:], upto_up[..., -1:]
        b = torch.cat([b_low * (whole_low - upto_low).exp().unsqueeze(-1), b_up * before_up.exp().unsqueeze(-1)], -1)
        c = torch.cat([c_low * before_low.exp().unsqueeze(-1), c_up * (whole_up - upto_up).exp().unsqueeze(-1)], -1)
        added = (b.mT @ x).to(log_low.dtype).unflatten(-2, (2, -1))  # (B, c, H, 2, N, P)
        from_before = _states(added[..., 0, :, :].unbind(1), whole_low.exp().unbind(1))
        from_after = _states(added[..., 1, :, :].unbind(1)[::-1], whole_up.exp().unbind(1)[::-1])[::-1]
        y = y + c @ torch.stack([torch.cat(both, dim=-2) for both in zip(from_before, from_after, strict=True)], 1)
    y_BLHP: Tensor = y.transpose(2, 3).flatten(1, 2)[:, :L]
    return y_BLHP


def _states(added: tuple[Tensor, ...], decays: tuple[Tensor, ...]) -> list[Tensor]:
    """What each chunk is handed, (B, H, N, P), of what those before it added, (B, H, N, P), and keep, (B, H, 1)."""
    states = [torch.zeros_like(added[0])]
    for of_chunk, decay in zip(added[:-1], decays[:-1], strict=True):
        states.append(decay.unsqueeze(-1) * states[-1] + of_chunk)
    return states
