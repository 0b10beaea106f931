"""A training schedule from a run's losses and the floor: timesteps and weights for a recipe (arXiv:2506.13763)."""

from typing import NamedTuple

import torch

from discli.data.floor_file import Floor
from discli.diffusion.timesteps.loss_aware import LossAwareTimestepsSpec, shares
from discli.diffusion.weightings.optimal_loss import OptimalLossWeightingSpec
from discli.recipe.choices import build
from discli.reports.fit import floor_of_run
from discli.runs.status import RunStatus
from discli.runtime.errors import DiscliError

_DIGITS = 5


class TrainingSchedule(NamedTuple):
    """For ``[diffusion]`` of a recipe."""

    timesteps: LossAwareTimestepsSpec
    weighting: OptimalLossWeightingSpec


def schedule_of_run(run: RunStatus, floor: Floor | None = None) -> TrainingSchedule:
    """Of the last held-out losses of ``run``.

    ``floor``: of its data, by default what lies beside them. Raises DiscliError where either is missing.
    """
    check_losses(run)
    floor = floor or floor_of_run(run)
    if floor is None:
        raise DiscliError(f"No floor lies beside the data of {run.folder}.", f"discli floor {run.folder}")
    last = run.logs["holdout"][-1]
    sigmas = [_rounded(sigma) for sigma in last["sigma"]]
    least = [error for error, _ in floor.at(last["sigma"])]
    of_x0 = [loss / scale for loss, scale in zip(last["levels_train"], last["floor_scale"], strict=True)]
    weighting = OptimalLossWeightingSpec(sigmas=tuple(sigmas), floor=tuple(_rounded(error) for error in least))
    weight = build(weighting).of_x0(torch.tensor(sigmas, dtype=torch.float64).log()).tolist()
    share = shares(sigmas, weight, [loss - best for loss, best in zip(of_x0, least, strict=True)])
    timesteps = LossAwareTimestepsSpec(sigmas=tuple(sigmas), share=tuple(_rounded(one) for one in share))
    return TrainingSchedule(timesteps, weighting)


def check_losses(run: RunStatus) -> None:
    """Raises DiscliError for a run that has no held-out losses."""
    if not run.logs["holdout"]:
        raise DiscliError(f"{run.folder} has no losses by noise level.", "Train with data.holdout above 0.")


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
