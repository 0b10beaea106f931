"""The yardstick of 2022 in the same network: DiT's self-attention (arXiv:2212.09748)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.mixers import Mixer
from discli.model.mlp import Mlp
from discli.model.order import TokenOrder
from discli.recipe.kinds import HeadDim, MixerSpec, head_width
from discli.recipe.model import ModelSpec


class DitSpec(MixerSpec):
    """Self-attention and an MLP, as in DiT (arXiv:2212.09748); expand, d_state, d_conv and scan mean nothing to it.

    A block has about twice the parameters of one of Mamba's: half the ``depth`` makes equals.
    """

    name: Literal["dit"] = "dit"
    head_dim: HeadDim = None
    ordered: ClassVar[bool] = False

    def check(self, model: "ModelSpec") -> None:
        self.check_heads(model.embed_dim, self.head_dim)


class DitAttention(Mixer):
    """Multi-head self-attention of a set of tokens.

    With the MLP after it, each behind its own norm, it is the block of DiT and, but for GELU's form,
    of U-ViT (arXiv:2209.12152). The rest is DiS's: RMSNorm, long skips, two streams, initial values.
    """

    spec = DitSpec
    channel_mixing = Mlp

    def __init__(self, model: ModelSpec, orders: Sequence[TokenOrder], head_dim: int | None) -> None:
        super().__init__(model, orders)
        D = model.embed_dim
        self.heads = D // head_width(D, head_dim)
        self.qkv = nn.Linear(D, 3 * D)
        self.out_proj = nn.Linear(D, D)

    def forward(self, u_BLD: Tensor) -> Tensor:
        q, k, v = self.qkv(u_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, D / heads)
        heard_BLD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed: Tensor = self.out_proj(heard_BLD)
        return mixed

    def flops(self, L: int) -> dict[str, int]:
        D = self.out_proj.in_features
        return {
            "qkv and out_proj": matmul_flops(L, D, 3 * D) + matmul_flops(L, D, D),
            "attention": 2 * matmul_flops(L, D, L),
        }
