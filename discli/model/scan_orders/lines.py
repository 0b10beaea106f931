"""Along rows, along columns, or both."""

from typing import ClassVar, Literal

from discli.recipe.kinds import ScanOrderSpec, WalksShare
from discli.recipe.size import Size


class RasterOrderSpec(ScanOrderSpec):
    """Row by row: the paper's choice."""

    name: Literal["raster"] = "raster"

    def walks(self, grid: Size, block: int) -> list[list[int]]:
        return [_rows(grid)]


class ColumnsOrderSpec(ScanOrderSpec):
    """Column by column."""

    name: Literal["columns"] = "columns"

    def walks(self, grid: Size, block: int) -> list[list[int]]:
        return [_columns(grid)]


class _RowsAndColumnsSpec(ScanOrderSpec):
    """Both in every block."""

    def walks(self, grid: Size, block: int) -> list[list[int]]:
        return [_rows(grid), _columns(grid)]


class FourOrderSpec(_RowsAndColumnsSpec):
    """Rows and columns in every block, both ways, each with its own parameters (VMamba, arXiv:2401.10166)."""

    name: Literal["four"] = "four"


class FourSharedOrderSpec(_RowsAndColumnsSpec):
    """As four, with the same parameters along rows and columns: no more of them than raster has."""

    name: Literal["four-shared"] = "four-shared"
    walks_share: ClassVar[WalksShare] = "parameters"


class FourSplitOrderSpec(_RowsAndColumnsSpec):
    """As four, half of the channels along rows, half along columns: raster's cost (GroupMamba, arXiv:2407.13772)."""

    name: Literal["four-split"] = "four-split"
    walks_share: ClassVar[WalksShare] = "channels"


def _rows(grid: Size) -> list[int]:
    """Each from the left: arXiv:2402.05608, section 3.1."""
    return list(range(grid.area))


def _columns(grid: Size) -> list[int]:
    """Each from the top."""
    return [grid.width * row + column for column in range(grid.width) for row in range(grid.height)]
