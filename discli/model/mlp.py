"""The second layer of a block whose mixer leaves the mixing of channels to it."""

from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops


class Mlp(nn.Module):
    """(B, L, D) to (B, L, D), each token by itself, through four times as many channels and a GELU."""

    inputs = 1  # times ``hidden`` channels that in_proj makes

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.hidden = self.width(embed_dim)
        self.in_proj = nn.Linear(embed_dim, self.inputs * self.hidden)
        self.out_proj = nn.Linear(self.hidden, embed_dim)

    @staticmethod
    def width(embed_dim: int) -> int:
        """Channels within."""
        return 4 * embed_dim

    def forward(self, u_BLD: Tensor) -> Tensor:
        mixed: Tensor = self.out_proj(self.activate(self.in_proj(u_BLD)))
        return mixed

    def activate(self, inner: Tensor) -> Tensor:
        """(B, L, inputs * hidden) to (B, L, hidden)."""
        return F.gelu(inner, approximate="tanh")

    def flops(self, L: int) -> dict[str, int]:
        """Of L tokens."""
        D = self.in_proj.in_features
        return {"mlp": matmul_flops(L, D, self.in_proj.out_features) + matmul_flops(L, self.hidden, D)}


class SwiGlu(Mlp):
    """SiLU(a) * b for GELU, a and b the halves of what ``in_proj`` makes (arXiv:2002.05202, eq. 6).

    Two thirds of the channels, so that there are as many weights, in multiples of 16.
    """

    inputs = 2

    @staticmethod
    def width(embed_dim: int) -> int:
        return max(16, round(8 / 3 * embed_dim / 16) * 16)

    def activate(self, inner: Tensor) -> Tensor:
        gate, value = inner.chunk(2, dim=-1)
        return F.silu(gate) * value
