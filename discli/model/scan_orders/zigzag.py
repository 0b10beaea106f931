"""Continuous walks, on another path block by block."""

from typing import Literal

from discli.recipe.kinds import ScanOrderSpec
from discli.recipe.size import Size


class ZigzagOrderSpec(ScanOrderSpec):
    """To and fro along rows or columns, on another path block by block (ZigMa, arXiv:2403.13802).

    Along one row and back along the next, so that each step goes to a neighbour. There are eight such
    paths, from each corner along rows or along columns, and each block that scans takes the next: the first starts at
    the top left along rows, the second there along columns, the next two at the top right, then at the bottom right,
    then at the bottom left. (Which of the eight comes when is ours.)
    """

    name: Literal["zigzag"] = "zigzag"

    def walks(self, grid: Size, block: int) -> list[list[int]]:
        corner, along_columns = divmod(block % 8, 2)
        lines = [list(range(grid.width * row, grid.width * (row + 1))) for row in range(grid.height)]
        if corner in (2, 3):
            lines = lines[::-1]
        if corner in (1, 2):
            lines = [line[::-1] for line in lines]
        if along_columns:
            lines = [list(line) for line in zip(*lines, strict=True)]
        return [[patch for number, line in enumerate(lines) for patch in (line[::-1] if number % 2 else line)]]
