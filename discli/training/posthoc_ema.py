"""``discli ema``: an average of any length, from the snapshots of a run with EDM2's power-function EMA.

The length of the average is the one setting of a diffusion model that can be chosen after training
(arXiv:2312.02696, section 3.2): no snapshot has it, but a weighted sum of snapshots comes close.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from discli.recipe.train import WIDEST_STD
from discli.runs.checkpoint import newest_checkpoint, read_state, write_checkpoint
from discli.runs.description import read_run
from discli.runs.layout import EMA, RunFolder, ema_file, find_run, is_run
from discli.runs.verify import verify_checkpoint
from discli.runtime.console import progress, stderr
from discli.runtime.errors import DiscliError
from discli.sampling.load import read_weights
from discli.training.begin import frozen
from discli.training.ema import posthoc_average

# Distance of the profile from the wanted one, relative to its norm, from which on it is another average.
_WORTH_A_WARNING = 0.1
_STD = "posthoc_std"  # in the state of a checkpoint that was rebuilt


def posthoc_ema(run: str | Path, std: float, step: int | None = None, out: str | Path | None = None) -> Path:
    """Write the average of relative width ``std`` at ``step`` as a run of its own, which ``discli sample`` takes.

    ``step`` is that of a snapshot, by default the last; ``out`` defaults to ``RUN/ema-<std>``. Raises
    DiscliError where the run has no snapshots there, ``std`` is none that a power function can have, or ``out`` is
    another run.
    """
    run = find_run(run)
    description = read_run(run)
    if not 0 < std < WIDEST_STD:
        raise DiscliError(f"--std {std:g} is out of range: it must be between 0 and 0.288.", "Such as 0.1.")
    snapshots = RunFolder(run).find_snapshots()
    if not snapshots:
        raise DiscliError(
            f"{run} has no snapshots to rebuild an average from.",
            'Train with train.ema = {name = "power", stds = [0.05, 0.1]}; with a constant EMA it cannot be done later.',
        )
    steps = sorted({at for at, _ in snapshots})
    step = steps[-1] if step is None else step
    if step not in steps:
        near = min(steps, key=lambda at: abs(at - step))
        raise DiscliError(f"{run} has no snapshot of step {step:,}.", f"The nearest is of step {near:,}.")

    used = {key: path for key, path in snapshots.items() if key[0] <= step}
    average = posthoc_average(list(used), step, std)
    recipe = description.read_recipe(str(RunFolder(run).description))
    still = frozen(recipe, description.began)
    ema = recipe.train.ema.model_copy(update={"stds": (std,)})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"ema": ema})})
    own = {"id": "", "command": "", "recipe": recipe.model_dump(mode="json")}
    description = description.model_copy(update=own)

    out = Path(out) if out is not None else run / f"ema-{std:g}"
    if _is_another(out):
        raise DiscliError(f"{out} is a run, and would be overwritten.", "Give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    weights = _weighted_sum(dict(zip(used.values(), average.coefficients.tolist(), strict=True)))
    if still and (newest := newest_checkpoint(run)) is not None:  # what never moved, without the snapshots' rounding
        weights |= {name: tensor for name, tensor in read_weights(ema_file(newest)).items() if name in still}
    about = {_STD: std, "snapshots": len(used), "profile_error": average.error}
    write_checkpoint(out, step, {EMA: weights}, about, description.metadata)
    description.write(out)

    line = f"std {std:g} at step {step:,} from {len(used)} snapshots; its profile is off by {average.error:.2%}"
    if average.error > _WORTH_A_WARNING:
        stderr.print(f"{line}: take a std nearer to those stored, or train with more snapshots.", style="yellow")
    else:
        stderr.print(line)
    return out


def _is_another(out: Path) -> bool:
    """Whether there is a run that this command has not written."""
    found = RunFolder(out).find_checkpoints()
    ours = all(verify_checkpoint(path, ()) is None and _STD in read_state(path) for path in found)
    return is_run(out) and not (found and ours)


def _weighted_sum(files: Mapping[Path, float]) -> dict[str, Tensor]:
    """Sums in float64, because neighbouring snapshots have coefficients of opposite sign."""
    total: dict[str, Tensor] = {}
    with progress("ema", len(files), "snapshots") as ticker:
        for path, coefficient in files.items():
            for name, tensor in read_weights(path).items():
                value = coefficient * tensor.double()
                total[name] = total[name].add_(value) if name in total else value
            ticker.advance()
    return {name: tensor.to(torch.float32) for name, tensor in total.items()}
