"""Some patches skip some blocks while training (TREAD, arXiv:2501.04765): what `DiS` does with them.

The span of blocks lies around the middle one, as many before it as behind it. So a long skip joins two blocks of
the same tokens: both inside the span, with those that stay, or both outside, with whole grids.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from discli.model.order import Placed, pick


class Route(NamedTuple):
    """``kept`` (B, K) int64: raster indices, rising, of the patches that pass through all blocks.

    The others miss all but the first ``outer`` blocks and the last ``outer``.
    """

    kept: Tensor
    outer: int


class RoutedSpan:
    """The blocks of one forward pass that see some tokens alone; of no ``route``, none.

    Those that stay keep their order, so that each scan visits them as it would among all; conditioning tokens
    always stay. The others come back as they went.
    """

    def __init__(self, blocks: Iterable[nn.Module], route: Route | None, extra_tokens: int) -> None:
        if route is None:
            self._first = self._last = -1
            return
        extra = torch.arange(extra_tokens, device=route.kept.device).expand(len(route.kept), -1)
        self._tokens = torch.cat([extra, route.kept + extra_tokens], dim=1)
        blocks = list(blocks)
        self._first, self._last = route.outer, len(blocks) - 1 - route.outer
        # Kept there until the next pass: activation checkpointing calls blocks again on the way back.
        for block in blocks[self._first : self._last + 1]:
            tell_places(block, self._tokens)

    def enter(self, index: int, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Before block ``index``: both streams (B, L, D), and of those that stay where the span begins."""
        if index != self._first:
            return hidden, residual
        assert residual is not None, "a block has gone before"
        L = hidden.shape[1]
        self._flat = self._tokens + L * torch.arange(len(hidden), device=hidden.device).unsqueeze(1)
        self._whole = hidden, residual
        return pick(hidden, self._flat), pick(residual, self._flat)

    def leave(self, index: int, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Behind block ``index``: both streams, and of all tokens again where the span ends."""
        if index != self._last:
            return hidden, residual
        return self._rejoin(self._whole[0], hidden), self._rejoin(self._whole[1], residual)

    def _rejoin(self, whole: Tensor, kept: Tensor) -> Tensor:
        flat = whole.to(kept.dtype).flatten(0, 1)
        filled: Tensor = flat.index_copy(0, self._flat.flatten(), kept.flatten(0, 1)).unflatten(0, whole.shape[:2])
        return filled


def tell_places(block: nn.Module, tokens: Tensor | None) -> None:
    """Which tokens ``block`` is given, (B, L) rising indices, or all, until told otherwise."""
    for module in block.modules():
        if isinstance(module, Placed):
            module.leave_only(tokens)
