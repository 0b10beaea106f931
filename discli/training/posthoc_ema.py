"""``discli ema``: an average of any length, from the snapshots of a run with EDM2's power-function EMA.

The length of the average is the one setting of a diffusion model that can be chosen after training
(arXiv:2312.02696, section 3.2): no snapshot has it, but a weighted sum of snapshots comes close.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from discli.recipe import parse_recipe
from discli.recipe.train import WIDEST_STD
from discli.runs.checkpoint import read_snapshots, read_tensors, write_checkpoint
from discli.runs.run import read_run
from discli.runs.status import find_run
from discli.runtime.console import progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_text
from discli.training.ema import posthoc_average

# Distance of the profile from the wanted one, relative to its norm, from which on it is another average.
_WORTH_A_WARNING = 0.1


def posthoc_ema(run: Path, std: float, step: int | None = None, out: Path | None = None) -> Path:
    """Write the average of relative width ``std`` at ``step`` as a run of its own, which ``discli sample`` takes.

    ``step`` is that of a snapshot, by default the last; ``out`` defaults to ``RUN/ema-<std>``. Raises
    DiscliError where the run has no snapshots there, or ``std`` is none that a power function can have.
    """
    run = find_run(run)
    description = read_run(run)
    if not 0 < std < WIDEST_STD:
        raise DiscliError(f"--std {std:g}: no power function is so wide.", "Give one between 0 and 0.288, such as 0.1.")
    snapshots = read_snapshots(run)
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
    recipe = parse_recipe(description["recipe"], str(run / "run.json"))
    ema = recipe.train.ema.model_copy(update={"stds": (std,)})
    description["recipe"] = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"ema": ema})}
    ).model_dump(mode="json")
    del description["id"], description["command"]

    out = out or run / f"ema-{std:g}"
    out.mkdir(parents=True, exist_ok=True)
    weights = _weighted_sum(dict(zip(used.values(), average.coefficients.tolist(), strict=True)))
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}
    about = {"posthoc_std": std, "snapshots": len(used), "profile_error": average.error}
    write_checkpoint(out, step, {"ema": weights}, about, metadata)
    write_text(out / "run.json", json.dumps(description, indent=1))

    line = f"std {std:g} at step {step:,} from {len(used)} snapshots; its profile is off by {average.error:.2%}"
    if average.error > _WORTH_A_WARNING:
        stderr.print(f"{line}: take a std nearer to those stored, or train with more snapshots.", style="yellow")
    else:
        stderr.print(line)
    return out


def _weighted_sum(files: Mapping[Path, float]) -> dict[str, Tensor]:
    """Sums in float64, because neighbouring snapshots have coefficients of opposite sign."""
    total: dict[str, Tensor] = {}
    with progress("ema", len(files), "snapshots") as ticker:
        for path, coefficient in files.items():
            for name, tensor in read_tensors(path.parent, path.stem).items():
                value = coefficient * tensor.double()
                total[name] = total[name].add_(value) if name in total else value
            ticker.advance()
    return {name: tensor.to(torch.float32) for name, tensor in total.items()}
