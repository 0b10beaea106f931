"""The second layer of a block whose mixer leaves the mixing of channels to it."""

from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops


class Mlp(nn.Module):
    """(B, L, D) to (B, L, D), each token by itself, through ``ratio`` times as many channels and a GELU."""

    def __init__(self, embed_dim: int, ratio: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(embed_dim, ratio * embed_dim)
        self.out_proj = nn.Linear(ratio * embed_dim, embed_dim)

    def forward(self, u_BLD: Tensor) -> Tensor:
        mixed: Tensor = self.out_proj(F.gelu(self.in_proj(u_BLD), approximate="tanh"))
        return mixed

    def flops(self, L: int) -> dict[str, int]:
        """Of L tokens."""
        return {"mlp": 2 * matmul_flops(L, self.in_proj.in_features, self.in_proj.out_features)}
