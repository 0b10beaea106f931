"""The noise process, the loss, guidance and samplers. Takes any callable network(x, t, y)."""

from discli.diffusion.loss import DiffusionLoss
from discli.diffusion.schedule import build_schedule
from discli.diffusion.trajectory import count_evaluations, takes_noise, trajectory

__all__ = ["DiffusionLoss", "build_schedule", "count_evaluations", "takes_noise", "trajectory"]
