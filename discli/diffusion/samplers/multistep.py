"""Multistep solvers: diffusers' own schedulers, which are given x0, on our table of betas in float64."""

from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from discli.diffusion.samplers import Noise, Predict, Sampler
from discli.diffusion.schedule import LinearBetaSchedule
from discli.recipe.kinds import SamplerSpec, TimestepSpacing
from discli.recipe.sample import SampleSpec
from discli.runtime.errors import DiscliError


class DpmSolverSpec(SamplerSpec):
    """DPM-Solver++ 2M along the probability-flow ODE (arXiv:2211.01095, algorithm 2)."""

    name: Literal["dpm-solver++"] = "dpm-solver++"
    spacings: ClassVar[tuple[TimestepSpacing, ...]] = ("linspace", "leading", "trailing")


class SdeDpmSolverSpec(SamplerSpec):
    """DPM-Solver++ 2M along the reverse SDE (arXiv:2211.01095, appendix B)."""

    name: Literal["sde-dpm-solver++"] = "sde-dpm-solver++"
    spacings: ClassVar[tuple[TimestepSpacing, ...]] = ("linspace", "leading", "trailing")


class UniPcSpec(SamplerSpec):
    """UniPC of order two, predictor and corrector, B2(h) (arXiv:2302.04867)."""

    name: Literal["unipc"] = "unipc"
    spacings: ClassVar[tuple[TimestepSpacing, ...]] = ("linspace", "leading", "trailing")


class DiffusersSampler(Sampler):
    """Drives a scheduler of diffusers."""

    takes_noise: ClassVar[bool] = False
    schedule: LinearBetaSchedule

    def __init__(self, schedule: LinearBetaSchedule, settings: SampleSpec) -> None:
        # diffusers' own times: those of linspace are linspace(T - 1, 0, steps + 1) without the 0, all different.
        self.schedule, self.num_steps = schedule, min(settings.steps, schedule.num_timesteps - 1)
        self.spacing = settings.timestep_spacing
        self.times = [*self._prepared().timesteps.tolist(), schedule.clean]
        if len(self.times) != self.num_steps + 1:  # of rounding, as of 61 in 1,000, diffusers has one too many: -1
            raise DiscliError(
                f"{self.num_steps} steps: diffusers' trailing times of so many are wrong.", "Take one more or less."
            )

    @abstractmethod
    def scheduler(self, **settings: Any) -> Any:
        """diffusers', with these settings and its own."""

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        scheduler = self._prepared()
        scheduler.set_begin_index(scheduler.timesteps.tolist().index(self.times[0]))
        for k, (t, t_next) in enumerate(pairwise(self.times)):
            x0 = predict(x, t).x0
            extra = {}
            if self.takes_noise:
                extra["variance_noise"] = noise(k) if t_next != self.schedule.clean else torch.zeros_like(x)
            x = scheduler.step(x0, t, x, return_dict=False, **extra)[0]
            yield x

    def _prepared(self) -> Any:
        scheduler = self.scheduler(
            num_train_timesteps=self.schedule.num_timesteps,
            prediction_type="sample",
            timestep_spacing=self.spacing,
        )
        scheduler.alphas_cumprod = self.schedule.alphas_cumprod.numpy()  # its own is float32
        scheduler.set_timesteps(self.num_steps)
        return scheduler


class DpmSolver(DiffusersSampler):
    """diffusers' DPMSolverMultistepScheduler: DPM-Solver++ 2M, midpoint."""

    spec = DpmSolverSpec

    def scheduler(self, **settings: Any) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **settings)


class SdeDpmSolver(DiffusersSampler):
    """diffusers' DPMSolverMultistepScheduler: SDE-DPM-Solver++ 2M, midpoint."""

    spec = SdeDpmSolverSpec
    takes_noise = True

    def scheduler(self, **settings: Any) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **settings)


class UniPc(DiffusersSampler):
    """diffusers' UniPCMultistepScheduler: order two, B2(h)."""

    spec = UniPcSpec

    def scheduler(self, **settings: Any) -> Any:
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(**settings)
