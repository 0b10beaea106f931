"""A recipe's sampler as a scheduler of diffusers, for pipelines of one's own: of the same times."""

from typing import Any

import diffusers

from discli.diffusion.samplers import build_sampler
from discli.recipe import Recipe

_CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm-solver++": "DPMSolverMultistepScheduler",
    "sde-dpm-solver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_PREDICTION = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
# linspace where it is the same; OpenAI's ddimN is leading where the stride is T // N.
_SPACING = {"ddim": "leading"}


def diffusers_scheduler(recipe: Recipe) -> Any | None:
    """Of the recipe's sampler, steps and spacing; None where none of diffusers' visits the same times.

    That is so of flow, whose times diffusers ends at 1 / T, and of some numbers of steps that it rounds otherwise.
    """
    spec, sample = recipe.diffusion, recipe.sample
    name, prediction = _CLASSES.get(sample.sampler.name), _PREDICTION.get(spec.objective.name)
    if name is None or prediction is None:
        return None
    settings: dict[str, Any] = {
        "num_train_timesteps": spec.num_timesteps,
        "beta_start": spec.beta_start,
        "beta_end": spec.beta_end,
        "beta_schedule": "linear",
        "prediction_type": prediction,
        "timestep_spacing": _SPACING.get(sample.timestep_spacing, sample.timestep_spacing),
    }
    if name in ("DDPMScheduler", "DDIMScheduler"):
        settings["clip_sample"] = sample.clip_denoised
    if name == "DDPMScheduler":
        settings["variance_type"] = "learned_range" if spec.learn_sigma else "fixed_small"
    if name == "DPMSolverMultistepScheduler":
        settings["algorithm_type"] = "sde-dpmsolver++" if sample.sampler.name == "sde-dpm-solver++" else "dpmsolver++"
    scheduler = getattr(diffusers, name)(**settings)
    ours = build_sampler(spec, sample).times[:-1]
    scheduler.set_timesteps(len(ours))
    return scheduler if scheduler.timesteps.tolist() == ours else None
