"""Which samples of a data file are held out: never trained on, to tell learning from memorising."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from discli.runtime.errors import DiscliError
from discli.runtime.rng import RngStream, uniform

_SEED = 0  # whatever train.seed is: runs of other seeds hold out the same samples, so their losses compare


def held_out(n: int, share: float) -> npt.NDArray[np.bool_]:
    """(n,) bool: about ``share`` of the samples, by their address alone: none moves when others are added."""
    if share == 0:
        return np.zeros(n, np.bool_)
    return np.asarray(uniform(_SEED, RngStream.HOLDOUT, 0, torch.arange(n)).numpy() < share)


def split(
    labels: npt.NDArray[np.int64] | None, n: int, share: float, file: Any, conditional: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the samples to train on and of those held out. Raises DiscliError where either are too few."""
    out = held_out(n, share)
    train, test = np.flatnonzero(~out), np.flatnonzero(out)
    if share == 0:
        return train, test
    for what, count in (("to train on", len(train)), ("held out", len(test))):
        if count < 2:
            raise DiscliError(
                f"data.holdout {share:g} leaves {count} of the {n:,} samples in {file} {what}: two are the least.",
                "Set data.holdout to 0, or to another share.",
            )
    if conditional and labels is not None:
        lost = np.setdiff1d(labels, labels[train])
        if len(lost):
            raise DiscliError(
                f"data.holdout {share:g} leaves class {lost[0]} of {file} without a sample to train on.",
                "Set data.holdout lower, or to 0.",
            )
    return train, test
