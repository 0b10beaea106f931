"""Settings that are allowed, and hardly meant."""

from discli.recipe.train import TrainSpec

_TELLING = 0.1  # of the initial weights in the average: its samples are noise


def config_warnings(spec: TrainSpec) -> list[str]:
    """A line for each setting of long runs that a short one has kept."""
    found = []
    warmup, steps = spec.lr_schedule.warmup_steps, spec.steps
    if warmup >= steps:
        found.append(
            f"train.lr_schedule.warmup_steps = {warmup:,} for {steps:,} steps: "
            f"the learning rate gets no higher than {spec.lr * steps / warmup:.2g}, of {spec.lr:.2g}."
        )
    if spec.ema.name == "constant" and (left := spec.ema.decay**steps) > _TELLING:
        fitting = max(0.0, 1 - 5 / steps)
        found.append(
            f"train.ema.decay = {spec.ema.decay:g} for {steps:,} steps: the average, which previews and samples "
            f"are of, keeps {left:.0%} of the untrained weights; {fitting:.4g} would keep less than 1%."
        )
    return found
