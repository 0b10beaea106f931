"""A network of 32 channels, five blocks and four classes, for images of 8 x 8."""

from typing import Any, TypeVar

from torch import nn

from discli.model import DiS
from discli.model.order import Placed
from discli.recipe import Recipe, parse_recipe
from discli.recipe.size import Size

Module = TypeVar("Module", bound=nn.Module)


def small_recipe(resolution: int | list[int] = 8, **model_settings: Any) -> Recipe:
    tree = {
        "name": "small",
        "model": {"embed_dim": 32, "depth": 5, "num_classes": 4, "drop_path_rate": 0.2, **model_settings},
        "data": {"resolution": resolution},
        "train": {"steps": 1},
    }
    return parse_recipe(tree, "small")


def laid_out(module: Module, height: int, width: int | None = None) -> Module:
    """On a grid of patches, as a network has its parts."""
    for part in module.modules():
        if isinstance(part, Placed):
            part.lay_out(Size(height, width or height))
    return module


def small(**model_settings: Any) -> DiS:
    return DiS.from_recipe(small_recipe(**model_settings))
