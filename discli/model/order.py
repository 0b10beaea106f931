"""Tokens into the order in which a scan visits them, and back. The orders themselves are in ``scan_orders/``."""

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from discli.recipe.kinds import ScanOrderSpec
from discli.recipe.size import Size


class Placed(nn.Module, ABC):
    """A part of a block to which it matters where on the grid its tokens lie: it must know the grid, and where some
    are left out.
    """

    grid: Size

    def lay_out(self, grid: Size, device: torch.device | str = "cpu") -> None:
        """From now on there are so many patches, in raster order; what it keeps of their places is on ``device``.

        At first on the CPU even where the network is built without memory (the meta device): no file holds places.
        """
        self.grid = grid

    @abstractmethod
    def leave_only(self, tokens: Tensor | None) -> None:
        """Until told otherwise only ``tokens`` are there: (B, L) indices in raster order, rising; None: all."""


class TokenOrder(Placed):
    """One walk over all tokens: the extra ones in front stay there, then the patches by their raster indices.

    It is walk number ``index`` of ``choice`` in block number ``block`` of those that scan.
    """

    permutation: Tensor | None
    inverse: Tensor | None

    def __init__(self, choice: ScanOrderSpec, index: int, block: int, extra_tokens: int) -> None:
        super().__init__()
        self._walk, self.extra_tokens = (choice, index, block), extra_tokens
        self.register_buffer("permutation", None, persistent=False)
        self.register_buffer("inverse", None, persistent=False)
        self._of_some: tuple[Tensor, Tensor] | None = None

    def lay_out(self, grid: Size, device: torch.device | str = "cpu") -> None:
        super().lay_out(grid, device)
        self.permutation, self.inverse = _order(*self._walk, grid, self.extra_tokens, str(device))

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


@lru_cache(maxsize=1024)  # buckets take turns, and each has one for every block
def _order(
    choice: ScanOrderSpec, index: int, block: int, grid: Size, extra_tokens: int, device: str
) -> tuple[Tensor | None, Tensor | None]:
    """The permutation of all tokens, and its inverse, (L,) int64; None where no token moves."""
    walk = choice.walks(grid, block)[index]
    places = range(extra_tokens + len(walk))
    order = [*range(extra_tokens), *(extra_tokens + patch for patch in walk)]
    if order == list(places):
        return None, None
    inverse = sorted(places, key=order.__getitem__)
    with torch.inference_mode(False):  # kept for training, whoever asked first
        return torch.tensor(order, device=device), torch.tensor(inverse, device=device)


def token_orders(choice: ScanOrderSpec, block: int, extra_tokens: int) -> list[TokenOrder]:
    """One for each walk of ``choice`` in block number ``block`` of those that scan; not laid out yet."""
    count = len(choice.walks(Size(1, 1), block))
    return [TokenOrder(choice, index, block, extra_tokens) for index in range(count)]
