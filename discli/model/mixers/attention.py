"""The yardstick of today: self-attention with rotary positions on two axes, normed queries and keys, and a SwiGLU."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.mixers import Mixer
from discli.model.mlp import SwiGlu
from discli.model.norm import RMSNorm
from discli.model.order import Placed, TokenOrder
from discli.recipe.kinds import HeadDim, MixerSpec, head_width
from discli.recipe.model import ModelSpec
from discli.recipe.size import Size
from discli.recipe.spec import Flag, Positive


class AttentionSpec(MixerSpec):
    """Self-attention of today and a SwiGLU: rotary positions on two axes, normed queries and keys (arXiv:2511.13720).

    expand, d_state, d_conv and scan mean nothing to it. A block has about twice the parameters of one of Mamba's:
    half the ``depth`` makes equals.
    """

    name: Literal["attention"] = "attention"
    head_dim: HeadDim = None
    qk_norm: Annotated[Flag, Field(description="RMSNorm of queries and keys (arXiv:2302.05442)")] = True
    rope: Annotated[Flag, Field(description="rotary positions on both axes (arXiv:2403.13298)")] = True
    rope_base: Annotated[Positive, Field(description="slowest rotation: about 1 / rope_base radians a patch")] = 100.0
    ordered: ClassVar[bool] = False

    def check(self, model: "ModelSpec") -> None:
        self.check_heads(model.embed_dim, self.head_dim)
        width = head_width(model.embed_dim, self.head_dim)
        if self.rope and (width < 4 or width % 2):
            raise ValueError(f"mixer.rope needs heads of 4, 6, 8 ... channels, not {width}: set mixer.head_dim")


class Attention(Mixer):
    """Multi-head self-attention of tokens that know where on the grid they lie.

    q and k are RMSNorm(q) and RMSNorm(k), turned by `Rotary`; with the SwiGLU after it, behind norms of DiS's,
    it is the block of JiT (arXiv:2511.13720) and LightningDiT (arXiv:2501.01423).
    """

    spec = AttentionSpec
    channel_mixing = SwiGlu

    def __init__(
        self,
        model: ModelSpec,
        orders: Sequence[TokenOrder],
        head_dim: int | None,
        qk_norm: bool,
        rope: bool,
        rope_base: float,
    ) -> None:
        super().__init__(model, orders)
        D = model.embed_dim
        width = head_width(D, head_dim)
        self.heads = D // width
        self.qkv = nn.Linear(D, 3 * D)
        self.q_norm = RMSNorm(width, eps=1e-6) if qk_norm else None
        self.k_norm = RMSNorm(width, eps=1e-6) if qk_norm else None
        self.rotary = Rotary(width, orders[0].extra_tokens, rope_base) if rope else None
        self.out_proj = nn.Linear(D, D)

    def forward(self, u_BLD: Tensor) -> Tensor:
        q, k, v = self.qkv(u_BLD).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, L, heads, D / heads)
        q, k = self._placed(q, self.q_norm), self._placed(k, self.k_norm)
        heard_BHLP = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        mixed: Tensor = self.out_proj(heard_BHLP.transpose(1, 2).flatten(2))
        return mixed

    def _placed(self, x_BLHP: Tensor, norm: RMSNorm | None) -> Tensor:
        """Normed and turned in float32 or wider, and given back in the precision of before."""
        wide = x_BLHP
        if norm is not None:
            _, normed = norm(None, x_BLHP.flatten(1, 2), None)
            wide = normed.view_as(x_BLHP)
        return (wide if self.rotary is None else self.rotary(wide)).to(x_BLHP.dtype)

    def flops(self, L: int) -> dict[str, int]:
        D = self.out_proj.in_features
        return {
            "qkv and out_proj": matmul_flops(L, D, 3 * D) + matmul_flops(L, D, D),
            "attention": 2 * matmul_flops(L, D, L),
        }


@lru_cache
def _places(grid: Size, extra_tokens: int, device: str) -> Tensor:
    """(L, 2): row and column of each token; at 0, 0 nothing turns."""
    patches = [divmod(i, grid.width) for i in range(grid.area)]
    with torch.inference_mode(False):  # kept for training, whoever asked first
        return torch.tensor([(0, 0)] * extra_tokens + patches, device=device)


class Rotary(Placed):
    """Turns pairs of channels of a patch by angles that its row and its column set (RoPE-Axial, arXiv:2403.13298).

    Channel c of d makes a pair with c + d / 2. Of the pairs, n = d // 4 turn by row * base^(-i/n) and n by
    column * base^(-i/n), i = 0 .. n - 1, so that a product of two patches depends on how far they lie apart alone.
    Extra tokens do not turn, nor does a pair that is left.
    """

    places: Tensor

    def __init__(self, width: int, extra_tokens: int, base: float) -> None:
        super().__init__()
        self.width, self.extra_tokens, self.base = width, extra_tokens, base
        self.register_buffer("places", None, persistent=False)
        self._kept: Tensor | None = None

    def lay_out(self, grid: Size, device: torch.device | str = "cpu") -> None:
        super().lay_out(grid, device)
        self.places = _places(grid, self.extra_tokens, str(device))

    def leave_only(self, tokens: Tensor | None) -> None:
        self._kept = tokens

    def forward(self, x_BLHP: Tensor) -> Tensor:
        """(B, L, heads, d) to (B, L, heads, d), float32 or wider."""
        dtype = torch.float64 if x_BLHP.dtype == torch.float64 else torch.float32
        n = self.width // 4
        rates = self.base ** (-torch.arange(n, device=x_BLHP.device, dtype=dtype) / n)
        places = self.places if self._kept is None else self.places[self._kept]
        angles = (places.to(dtype).unsqueeze(-1) * rates).flatten(-2)  # by rows, then by columns
        angles = F.pad(angles, (0, self.width // 2 - 2 * n)).unsqueeze(-2)
        cos, sin = angles.cos(), angles.sin()
        partners = x_BLHP.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
        return torch.addcmul(x_BLHP * torch.cat([cos, cos], dim=-1), partners, torch.cat([-sin, sin], dim=-1))
