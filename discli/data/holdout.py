"""Which samples of a data file are held out: never trained on, to tell learning from memorising."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from discli.data.store import Store
from discli.recipe import Recipe
from discli.runtime.errors import DiscliError
from discli.runtime.rng import RngStream, uniform

_SEED = 0  # whatever train.seed is: runs of other seeds hold out the same samples, so their losses compare


class Split(NamedTuple):
    """Indices into a data file, ascending."""

    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def held_out(n: int, share: float) -> npt.NDArray[np.bool_]:
    """(n,) bool: about ``share`` of the samples, by their address alone: none moves when others are added."""
    if share == 0:
        return np.zeros(n, np.bool_)
    return np.asarray(uniform(_SEED, RngStream.HOLDOUT, 0, torch.arange(n)).numpy() < share)


def in_order(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same samples, in an order of their own that is no order of classes or sources."""
    return indices[np.argsort(uniform(_SEED, RngStream.HOLDOUT, 0, torch.from_numpy(indices)).numpy(), kind="stable")]


def split_of(recipe: Recipe, store: Store) -> Split:
    """As `split`, of what a recipe trains on."""
    return split(store, recipe.data.holdout, recipe.model.num_classes > 0)


def split(store: Store, share: float, conditional: bool) -> Split:
    """Indices of the samples to train on and of those held out. Raises DiscliError where either are too few."""
    n, labels = len(store), store.labels
    out = held_out(n, share)
    train, test = np.flatnonzero(~out), np.flatnonzero(out)
    if share == 0:
        return Split(train, test)
    for what, count in (("to train on", len(train)), ("held out", len(test))):
        if count < 2:
            raise DiscliError(
                f"data.holdout {share:g} leaves {count} of {n:,} samples in {store.path} {what}: two are the least.",
                "Set data.holdout to 0, or to another share.",
            )
    if conditional and labels is not None:
        lost = np.setdiff1d(labels, labels[train])
        if len(lost):
            raise DiscliError(
                f"data.holdout {share:g} leaves class {lost[0]} of {store.path} without a sample to train on.",
                "Set data.holdout lower, or to 0.",
            )
    return Split(train, test)
