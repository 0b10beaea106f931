"""Along rows, along columns, or both."""

from typing import Literal

from discli.recipe.kinds import ScanOrderSpec


class RasterOrderSpec(ScanOrderSpec):
    """Row by row: the paper's choice."""

    name: Literal["raster"] = "raster"

    def walks(self, side: int, block: int) -> list[list[int]]:
        return [_rows(side)]


class ColumnsOrderSpec(ScanOrderSpec):
    """Column by column."""

    name: Literal["columns"] = "columns"

    def walks(self, side: int, block: int) -> list[list[int]]:
        return [_columns(side)]


class FourOrderSpec(ScanOrderSpec):
    """Rows and columns in every block, both ways, each with its own parameters (VMamba, arXiv:2401.10166)."""

    name: Literal["four"] = "four"

    def walks(self, side: int, block: int) -> list[list[int]]:
        return [_rows(side), _columns(side)]


def _rows(side: int) -> list[int]:
    """Each from the left: arXiv:2402.05608, section 3.1."""
    return list(range(side * side))


def _columns(side: int) -> list[int]:
    """Each from the top."""
    return [side * row + column for column in range(side) for row in range(side)]
