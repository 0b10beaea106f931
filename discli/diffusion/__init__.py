"""The noise process, the loss, guidance and samplers. Takes any callable network(x, t, y)."""

from discli.diffusion.guidance import guided
from discli.diffusion.loss import DiffusionLoss
from discli.diffusion.samplers import build_sampler, trajectory
from discli.diffusion.schedule import build_schedule

__all__ = ["DiffusionLoss", "build_sampler", "build_schedule", "guided", "trajectory"]
