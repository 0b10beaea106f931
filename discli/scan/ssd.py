"""The state-space dual of Mamba-2 (arXiv:2405.21060), chunk by chunk, in matrix products of plain PyTorch."""

import torch
from torch import Tensor


def ssd(x_BLHP: Tensor, delta_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, chunk: int) -> Tensor:
    """y (B, L, H, P) of h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t^T,  y_t = h_t C_t; h is (P, N) for each head.

    All channels of a head share one rate A < 0, so that what token s adds to token t is a number,
    exp(sum of delta A from s + 1 to t) C_t . B_s: inside a chunk the answer is a masked matrix times x,
    and chunks hand on states (section 6). Of L tokens, any number, no chunk has more than ``chunk``.
    Decays and states are in the dtype of ``delta``, products in whatever autocast makes of them.
    """
    batch, L, H, P = x_BLHP.shape
    count = -(-L // chunk)
    Q = -(-L // count)
    # Tokens are added at the end, with delta 0: they change nothing before them.
    rows = [torch.nn.functional.pad(t.flatten(2), (0, 0, 0, count * Q - L)) for t in (x_BLHP, delta_BLH, B_BLN, C_BLN)]
    x, delta, B_cQN, C_cQN = (t.unflatten(1, (count, Q)) for t in rows)  # (B, c, Q, ...)
    x_cHQP = (x.unflatten(-1, (H, P)) * delta.unsqueeze(-1)).transpose(2, 3)
    decay_cHQ = (delta * A_H).cumsum(2).transpose(2, 3)  # log of what is left at a token of the chunk's first state

    apart_cHQQ = decay_cHQ.unsqueeze(-1) - decay_cHQ.unsqueeze(-2)
    later = torch.ones(Q, Q, dtype=torch.bool, device=x.device).triu(1)
    mask_cHQQ = apart_cHQQ.masked_fill(later, -torch.inf).exp()
    scores_cQQ = C_cQN @ B_cQN.mT
    y_cHQP = (scores_cQQ.unsqueeze(2) * mask_cHQQ) @ x_cHQP

    to_end_cHQ = (decay_cHQ[..., -1:] - decay_cHQ).exp()
    added_cHNP = B_cQN.mT.unsqueeze(2) @ (to_end_cHQ.unsqueeze(-1) * x_cHQP)
    state_HNP = torch.zeros_like(added_cHNP[:, 0], dtype=delta.dtype)
    before = []
    for total_H, added_HNP in zip(decay_cHQ[..., -1].exp().unbind(1), added_cHNP.unbind(1), strict=True):
        before.append(state_HNP)
        state_HNP = total_H[..., None, None] * state_HNP + added_HNP
    from_before_cHQP = C_cQN.unsqueeze(2) @ torch.stack(before, dim=1)

    y_cHQP = y_cHQP + decay_cHQ.exp().unsqueeze(-1) * from_before_cHQP
    y_BLHP: Tensor = y_cHQP.transpose(2, 3).reshape(batch, count * Q, H, P)[:, :L]
    return y_BLHP
