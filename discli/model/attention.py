"""The yardstick in the same house: attention, and the MLP that goes with it (DiT, arXiv:2212.09748)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.order import Path
from discli.recipe.model import ModelSpec, head_width


class Attention(nn.Module):
    """Multi-head self-attention, (B, L, D) to (B, L, D): a set of tokens, in whatever order.

    With the `Mlp` after it, each behind its own norm, it is the block of DiT and, but for GELU's form,
    of U-ViT (arXiv:2209.12152). The rest is this house's: RMSNorm, long skips, two streams, `init`.
    """

    mlp_ratio = 4

    def __init__(self, model: ModelSpec, paths: Sequence[Path], head_dim: int | None) -> None:
        super().__init__()
        D = model.embed_dim
        self.heads = D // head_width(D, head_dim)
        self.qkv = nn.Linear(D, 3 * D)
        self.out_proj = nn.Linear(D, D)

    def forward(self, u_BLD: Tensor) -> Tensor:
        q, k, v = self.qkv(u_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, D / heads)
        heard_BLD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed: Tensor = self.out_proj(heard_BLD)
        return mixed


class Mlp(nn.Module):
    """Each token by itself, through ``ratio`` times as many channels."""

    def __init__(self, embed_dim: int, ratio: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(embed_dim, ratio * embed_dim)
        self.out_proj = nn.Linear(ratio * embed_dim, embed_dim)

    def forward(self, u_BLD: Tensor) -> Tensor:
        mixed: Tensor = self.out_proj(F.gelu(self.in_proj(u_BLD), approximate="tanh"))
        return mixed
