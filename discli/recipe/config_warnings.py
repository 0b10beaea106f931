"""Settings that are allowed, and hardly meant; and what suits a run of so many steps instead."""

from discli.recipe.recipe import Recipe

_TELLING = 0.1  # of the initial weights in the average: its samples are noise
# Below this, nearly all of what the paper's eps loss has taught is noise that is easy to tell from anything, and
# min-SNR has hardly taught which class an image is of. Of the quickstart's digits none was readable with eps; with v
# and min-SNR 37% to 46% were recognised as the one asked for, with v and uniform weights 98%
# (recipes/quickstart.toml).
SHORT = 20_000  # steps


def fitting_warmup(steps: int) -> int:
    """A twentieth of the run, as the small studies and the quickstart have; the paper's 5,000 at the most."""
    return min(5_000, steps // 20)


def fitting_decay(steps: int) -> float:
    """An average over the last twentieth of the run; 0.9999, the paper's, at the most. 2,000 steps: 0.99."""
    return min(0.9999, float(f"{max(0.0, 1 - 20 / steps):.4g}"))


def _x0_on_the_straight_path(recipe: Recipe) -> list[str]:
    """What turns a recipe of eps into one of x0-flow (arXiv:2511.13720, 2605.27102), with a sampler for it."""
    flags = ["diffusion.objective=x0-flow", "diffusion.timesteps=logit-normal"]
    if recipe.data.codec.is_pixels:
        flags.append("diffusion.timesteps.mean=0.4")  # of digits after 600 steps 95% were recognised, with 0 85%
    if "flow" not in recipe.diffusion.weighting.fits:
        flags.append("diffusion.weighting=uniform")
    if "flow" not in recipe.sample.sampler.fits:
        flags += ["sample.sampler=heun", "sample.steps=20"]
    if recipe.sample.timestep_spacing != "linspace":
        flags.append("sample.timestep_spacing=linspace")
    return flags


def config_warnings(recipe: Recipe, goes_on: bool = False) -> list[str]:
    """A line for each setting of long runs that a short one has kept, and a last one with the flags that help.

    Of a run that ``goes_on`` from a trained model only the warm-up is long: average and objective begin trained.
    """
    spec, found, flags = recipe.train, [], []
    warmup, steps = spec.lr_schedule.warmup_steps, spec.steps
    if warmup >= steps:
        found.append(
            f"train.lr_schedule.warmup_steps = {warmup:,} for {steps:,} steps: "
            f"the learning rate gets no higher than {spec.lr * steps / warmup:.2g}, of {spec.lr:.2g}."
        )
        flags.append(f"train.lr_schedule.warmup_steps={fitting_warmup(steps)}")
    if not goes_on and spec.ema.name == "constant" and (left := spec.ema.decay**steps) > _TELLING:
        found.append(
            f"train.ema.decay = {spec.ema.decay:g} for {steps:,} steps: the average, which previews and samples "
            f"are of, keeps {left:.0%} of the first weights."
        )
        flags.append(f"train.ema.decay={fitting_decay(steps):g}")
    diffusion, of_noise = recipe.diffusion, steps < SHORT and not goes_on
    if diffusion.objective.name == "eps" and of_noise:
        found.append(f"diffusion.objective = eps for {steps:,} steps: samples of so short a run are mostly noise.")
        flags += _x0_on_the_straight_path(recipe)
    elif diffusion.weighting.name == "min-snr" and of_noise:
        found.append(
            f"diffusion.weighting = min-snr for {steps:,} steps: it weighs next to nothing where there is much noise, "
            "and there it is decided what an image shows."
        )
        flags.append("diffusion.weighting=uniform")
    if flags:
        found.append("For a new run, what suits its length: " + " ".join(f"--set {flag}" for flag in flags))
    return found
