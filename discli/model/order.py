"""Tokens into the order in which a scan visits them, and back. The orders themselves are in ``scan_orders/``."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from discli.recipe.kinds import ScanOrderSpec


class Placed(nn.Module, ABC):
    """A part of a block to which it matters where on the grid its tokens lie: it must know where some are left out."""

    @abstractmethod
    def leave_only(self, tokens: Tensor | None) -> None:
        """Until told otherwise only ``tokens`` are there: (B, L) indices in raster order, rising; None: all."""


class TokenOrder(Placed):
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
        self._of_some: tuple[Tensor, Tensor] | None = None

    def leave_only(self, tokens: Tensor | None) -> None:
        self._of_some = None
        if tokens is not None and self.inverse is not None:
            visits = self.inverse[tokens].argsort(dim=1)
            first = tokens.shape[1] * torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
            self._of_some = visits + first, visits.argsort(dim=1) + first

    def permute(self, x_BLE: Tensor) -> Tensor:
        """Tokens from raster order into the walk's; (B, L, E)."""
        if self._of_some is not None:
            return pick(x_BLE, self._of_some[0])
        return x_BLE if self.permutation is None else _Moved.apply(x_BLE, self.permutation, self.inverse)

    def unpermute(self, x_BLE: Tensor) -> Tensor:
        """Tokens from the walk's order into raster order; (B, L, E)."""
        if self._of_some is not None:
            return pick(x_BLE, self._of_some[1])
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


def pick(x_BLE: Tensor, at_BK: Tensor) -> Tensor:
    """(B, K, E): tokens of each image by their place among those of all, image * L + index."""
    picked: Tensor = x_BLE.flatten(0, 1).index_select(0, at_BK.flatten()).unflatten(0, at_BK.shape)
    return picked


def token_orders(choice: ScanOrderSpec, side: int, block: int, extra_tokens: int) -> list[TokenOrder]:
    """One for each walk of ``choice`` over ``side`` x ``side`` patches in block number ``block`` of those that scan."""
    return [TokenOrder(walk, extra_tokens) for walk in choice.walks(side, block)]
