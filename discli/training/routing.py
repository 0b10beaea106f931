"""Which patches skip blocks in a step: drawn by address, for each image by itself."""

from torch import Tensor

from discli.model.routing import Route
from discli.recipe import Recipe
from discli.runtime.rng import RngStream, uniform


def draw_route(recipe: Recipe, seed: int, step: int, slots: Tensor, patches: int | None = None) -> Route | None:
    """Of the images at ``slots`` (b,) of the global batch of a step, where the recipe routes in it.

    They have so many ``patches``; None: those of the recipe's size.
    """
    route = recipe.train.route
    if route is None or step >= round(route.stop_at * recipe.train.steps):
        return None
    patches = patches or recipe.num_patches
    order = uniform(seed, RngStream.ROUTE, step, slots, (patches,)).argsort(dim=1, stable=True)
    return Route(order[:, : route.kept(patches)].sort(dim=1).values, route.outer)
