"""In which order the scans of a block walk over the patches; everywhere else patches are in raster order.

To add one: a function here that maps (side of the square of patches, number of the block) to one walk
or more, its name in ``ORDERS``, and a Spec of the same name in `discli.recipe.model`. A walk lists the
raster indices of the patches as they are met. Each is scanned in both directions, with parameters of
its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from discli.recipe import model as spec

Walk = list[int]


def raster(side: int, block: int) -> list[Walk]:
    """Row by row, each from the left: arXiv:2402.05608, section 3.1."""
    return [_flat(_rows(side))]


def columns(side: int, block: int) -> list[Walk]:
    """Column by column, each from the top."""
    return [_flat(_transposed(_rows(side)))]


def zigzag(side: int, block: int) -> list[Walk]:
    """ZigMa's (arXiv:2403.13802): along one row and back along the next, so that each step goes to a neighbour.

    There are eight such paths, from each corner along rows or along columns, and each block takes the
    next: block 0 starts at the top left along rows, 1 there along columns, 2 and 3 at the top right, 4
    and 5 at the bottom right, 6 and 7 at the bottom left. (Which of the eight comes when is ours.)
    """
    corner, along_columns = divmod(block % 8, 2)
    lines = _rows(side)
    if corner in (2, 3):
        lines = lines[::-1]
    if corner in (1, 2):
        lines = [line[::-1] for line in lines]
    if along_columns:
        lines = _transposed(lines)
    return [_flat([line[::-1] if number % 2 else line for number, line in enumerate(lines)])]


def four(side: int, block: int) -> list[Walk]:
    """By rows and by columns in every block, both ways: the cross-scan of VMamba (arXiv:2401.10166)."""
    return raster(side, block) + columns(side, block)


ORDERS: dict[str, Callable[..., list[Walk]]] = {"raster": raster, "columns": columns, "zigzag": zigzag, "four": four}


class Path(nn.Module):
    """One walk over all tokens: the extra ones in front stay there."""

    walk: Tensor | None
    way_back: Tensor | None

    def __init__(self, walk: Walk, extra_tokens: int) -> None:
        super().__init__()
        places = range(extra_tokens + len(walk))
        there = [*range(extra_tokens), *(extra_tokens + patch for patch in walk)]
        moves = there != list(places)
        back = sorted(places, key=there.__getitem__)
        # On the CPU even where the network is built without memory (the meta device): no file holds these.
        self.register_buffer("walk", torch.tensor(there, device="cpu") if moves else None, persistent=False)
        self.register_buffer("way_back", torch.tensor(back, device="cpu") if moves else None, persistent=False)

    def there(self, x_BLE: Tensor) -> Tensor:
        """Tokens from raster order into the walk's."""
        return x_BLE if self.walk is None else x_BLE.index_select(1, self.walk)

    def back(self, x_BLE: Tensor) -> Tensor:
        """Tokens from the walk's order into raster order."""
        return x_BLE if self.way_back is None else x_BLE.index_select(1, self.way_back)


def build_paths(choice: spec.ScanOrder, side: int, block: int, extra_tokens: int) -> list[Path]:
    walks = ORDERS[choice.name](side, block, **choice.model_dump(exclude={"name"}))
    return [Path(walk, extra_tokens) for walk in walks]


def _rows(side: int) -> list[Walk]:
    return [list(range(side * row, side * (row + 1))) for row in range(side)]


def _transposed(lines: list[Walk]) -> list[Walk]:
    return [list(line) for line in zip(*lines, strict=True)]


def _flat(lines: list[Walk]) -> Walk:
    return [patch for line in lines for patch in line]
