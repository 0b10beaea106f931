"""Tokens into the order in which a scan visits them, and back. The orders themselves are in ``scan_orders/``."""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from discli.recipe.kinds import ScanOrderSpec


class TokenOrder(nn.Module):
    """One walk over all tokens: the extra ones in front stay there, then the patches by their raster indices."""

    permutation: Tensor | None
    inverse: Tensor | None

    def __init__(self, walk: list[int], extra_tokens: int) -> None:
        super().__init__()
        self.side, self.extra_tokens = math.isqrt(len(walk)), extra_tokens
        places = range(extra_tokens + len(walk))
        order = [*range(extra_tokens), *(extra_tokens + patch for patch in walk)]
        moves = order != list(places)
        inverse = sorted(places, key=order.__getitem__)
        # On the CPU even where the network is built without memory (the meta device): no file holds these.
        self.register_buffer("permutation", torch.tensor(order, device="cpu") if moves else None, persistent=False)
        self.register_buffer("inverse", torch.tensor(inverse, device="cpu") if moves else None, persistent=False)

    def permute(self, x_BLE: Tensor) -> Tensor:
        """Tokens from raster order into the walk's; (B, L, E)."""
        return x_BLE if self.permutation is None else _Moved.apply(x_BLE, self.permutation, self.inverse)

    def unpermute(self, x_BLE: Tensor) -> Tensor:
        """Tokens from the walk's order into raster order; (B, L, E)."""
        return x_BLE if self.inverse is None else _Moved.apply(x_BLE, self.inverse, self.permutation)


class _Moved(torch.autograd.Function):
    """Tokens to the places that ``order`` says. Its gradient is moved back, where autograd would add up."""

    @staticmethod
    def forward(x_BLE: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return x_BLE.index_select(1, order)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient.index_select(1, inverse), None, None


def token_orders(choice: ScanOrderSpec, side: int, block: int, extra_tokens: int) -> list[TokenOrder]:
    """One for each walk of ``choice`` over ``side`` x ``side`` patches in block number ``block``."""
    return [TokenOrder(walk, extra_tokens) for walk in choice.walks(side, block)]
