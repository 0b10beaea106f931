"""A network of 32 channels, five blocks and four classes, for images of 8 x 8."""

from typing import Any

from discli.model import DiS
from discli.recipe import Recipe, parse_recipe


def small_recipe(resolution: int = 8, **model_settings: Any) -> Recipe:
    tree = {
        "name": "small",
        "model": {"embed_dim": 32, "depth": 5, "num_classes": 4, "drop_path_rate": 0.2, **model_settings},
        "data": {"resolution": resolution},
        "train": {"steps": 1},
    }
    return parse_recipe(tree, "small")


def small(**model_settings: Any) -> DiS:
    return DiS.from_recipe(small_recipe(**model_settings))
