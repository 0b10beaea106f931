"""Quasi-separable matrices times x, chunk by chunk, in matrix products of plain PyTorch (arXiv:2407.09941)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Triangle(NamedTuple):
    """Below or above the diagonal: entry (t, s) is c_t . b_s, times exp(log_a) of each token strictly between.

    Tokens lie last, so that what is done to states, of which there are few, is done to many numbers in a row.
    """

    c: Tensor  # (B, H, N, L)
    log_a: Tensor  # (B, H, L), at most 0
    b: Tensor  # (B, H, N, L)


def quasiseparable(x_BLHP: Tensor, diagonal_BHL: Tensor, lower: Triangle, upper: Triangle, chunk: int) -> Tensor:
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

    def chunks(t_BHL: Tensor) -> Tensor:
        """(B, H, ..., L) to (B, H, c, ..., Q). The zeros at the end change nothing before them."""
        if count == 1:
            return t_BHL.unsqueeze(2)
        padded = t_BHL if count * Q == L else F.pad(t_BHL, (0, count * Q - L))
        split: Tensor = padded.unflatten(-1, (count, Q)).movedim(-2, 2)
        return split

    x = chunks(x_BLHP.permute(0, 2, 3, 1)).mT.contiguous()  # (B, H, c, Q, P)
    (c_low, log_low, b_low), (c_up, log_up, b_up) = map(chunks, lower), map(chunks, upper)
    # Sums of log_a from a chunk's beginning: with a token's own, and without it.
    upto_low, upto_up = log_low.cumsum(-1), log_up.cumsum(-1)
    before_low, before_up = (F.pad(upto, (1, -1)) for upto in (upto_low, upto_up))

    # Masked before exp: what lies on the wrong side could overflow, and its gradient be no number.
    tokens = torch.arange(Q, device=x.device)
    is_lower, itself = tokens.unsqueeze(-1) > tokens, tokens.unsqueeze(-1) == tokens
    of_lower = before_low.unsqueeze(-1) - upto_low.unsqueeze(-2)
    of_upper = before_up.unsqueeze(-2) - upto_up.unsqueeze(-1)
    decays = torch.where(is_lower, of_lower, of_upper).masked_fill_(itself, -torch.inf).exp_()
    scores = torch.where(is_lower, c_low.mT @ b_low, c_up.mT @ b_up)
    matrix = torch.diagonal_scatter(scores * decays, chunks(diagonal_BHL), dim1=-2, dim2=-1)
    y = (matrix @ x).to(log_low.dtype)

    if count > 1:
        whole_low, whole_up = upto_low[..., -1:], upto_up[..., -1:]
        b = torch.cat([b_low * (whole_low - upto_low).exp().unsqueeze(-2), b_up * before_up.exp().unsqueeze(-2)], -2)
        c = torch.cat([c_low * before_low.exp().unsqueeze(-2), c_up * (whole_up - upto_up).exp().unsqueeze(-2)], -2)
        added_low, added_up = (b @ x).to(log_low.dtype).chunk(2, dim=-2)  # (B, H, c, N, P)
        from_before = _states(added_low.unbind(2), whole_low.exp().unbind(2))
        from_after = _states(added_up.unbind(2)[::-1], whole_up.exp().unbind(2)[::-1])[::-1]
        y += c.mT @ torch.stack([torch.cat(both, dim=-2) for both in zip(from_before, from_after, strict=True)], 2)
    y_BLHP: Tensor = y.flatten(2, 3)[:, :, :L].transpose(1, 2)
    return y_BLHP


def _states(added: tuple[Tensor, ...], decays: tuple[Tensor, ...]) -> list[Tensor]:
    """What each chunk is handed, (B, H, N, P), of what those before it added, (B, H, N, P), and keep, (B, H, 1)."""
    states = [torch.zeros_like(added[0])]
    for of_chunk, decay in zip(added[:-1], decays[:-1], strict=True):
        states.append(decay.unsqueeze(-1) * states[-1] + of_chunk)
    return states
