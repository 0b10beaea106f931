"""adaLN: a condition scales and shifts what a layer is given, and may gate what it gives."""

from collections.abc import Callable

from torch import Tensor, nn

from discli.model.flops import matmul_flops

Layer = Callable[[Tensor], Tensor]


class Modulation(nn.Module):
    """layer(x * (1 + scale) + shift), both linear in SiLU(condition): adaLN (arXiv:2212.09748, section 3.2)."""

    width = 2  # vectors of D channels that the condition is turned into

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, self.width * embed_dim)

    def forward(self, x_BLD: Tensor, condition_BD: Tensor, layer: Layer) -> Tensor:
        """``layer`` takes (B, L, D); its answer is returned, (B, L, D) in a block."""
        shift, scale = self._vectors(condition_BD)
        return layer(x_BLD * (1 + scale) + shift)

    def flops(self) -> int:
        """Of one image, whatever its tokens."""
        return matmul_flops(1, self.linear.in_features, self.linear.out_features)

    def _vectors(self, condition_BD: Tensor) -> tuple[Tensor, ...]:
        """``width`` of (B, 1, D)."""
        vectors: Tensor = self.linear(nn.functional.silu(condition_BD))
        return vectors.unsqueeze(1).chunk(self.width, dim=-1)


class GatedModulation(Modulation):
    """gate * layer(x * (1 + scale) + shift), all three 0 at first: adaLN-Zero (arXiv:2212.09748, section 3.2)."""

    width = 3

    def init_weights(self) -> None:
        nn.init.zeros_(self.linear.weight)

    def forward(self, x_BLD: Tensor, condition_BD: Tensor, layer: Layer) -> Tensor:
        """As `Modulation.forward`, of a layer that gives (B, L, D)."""
        shift, scale, gate = self._vectors(condition_BD)
        return gate * layer(x_BLD * (1 + scale) + shift)
