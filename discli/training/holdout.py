"""The loss of the averaged weights on samples never trained on, and on as many that were, at fixed noise.

Both fall alike while a network learns what images have in common. Where it learns the training images themselves,
the held-out loss stays behind, and then rises. Some images are harder than others, and by chance one of the two sets
has more of these, at every step: so each sample is also compared with itself when it was first measured.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from discli.data.holdout import in_order
from discli.data.store import Store
from discli.diffusion import DiffusionLoss
from discli.diffusion.levels import noise_levels
from discli.model import load_network
from discli.recipe import Recipe
from discli.runs.logs import Log
from discli.runtime.files import write_beside
from discli.runtime.rng import RngStream, normal, uniform
from discli.training.callbacks import is_due
from discli.training.engine import Engine, whole
from discli.training.interrupts import Interrupts

_SEED = 0  # as of the split: the losses of runs of other seeds are of the same samples and the same noise
_BATCH = 32  # whatever the run's is


class HeldOutLoss:
    """Measured at the steps for it, on the main process; nothing of the training depends on it."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        train: npt.NDArray[np.int64],
        held_out: npt.NDArray[np.int64],
        engine: Engine,
        interrupts: Interrupts,
    ) -> None:
        self._recipe, self._store, self._engine, self._interrupts = recipe, store, engine, interrupts
        self._sets = {"train": train, "held_out": held_out}
        self._loss, self._levels = DiffusionLoss(recipe.diffusion), noise_levels(recipe.diffusion)
        self._log: Log | None = None
        self._first_losses = Path()

    def open(self, log: Log, first_losses: Path) -> None:
        """On the main process, before the first step. ``first_losses`` is the file for those of the first time."""
        self._log, self._first_losses = log, first_losses

    def on_step(self, averaged: Mapping[str, Tensor], step: int, only_missing: bool = False) -> bool:
        """Called by all ranks after every step, and with ``only_missing`` before the first one; as of previews.

        Whether anything was due.
        """
        spec, engine = self._recipe.train, self._engine
        due = len(self._sets["held_out"]) > 0 and step > 0 and is_due(spec.holdout_every, step, spec.steps)
        if due and only_missing:  # which the main process knows
            missing = self._log is not None and all(line["step"] != step for line in self._log.lines())
            [due] = engine.any(missing)
        if not due:
            return False
        weights = whole(averaged, wanted=engine.is_main)  # the last that all ranks do together
        if self._log is not None:
            with self._interrupts.give_up_when_asked(f"The held-out loss of step {step:,}"):
                before = self._before(step)
                found, losses = self.measure(weights, before)
                if not before:
                    write_beside(self._first_losses, lambda path: save_file(losses, path, {"step": str(step)}))
                self._log.write({"step": step, **found})
                engine.track({key: found[key] for key in ("loss_train", "loss_held_out")}, step)
        return True

    def _before(self, step: int) -> dict[str, Tensor]:
        """The losses of the first time; none where that was not before ``step``, as after a roll-back."""
        try:
            with safe_open(self._first_losses, "pt") as file:
                if int((file.metadata() or {}).get("step", step)) >= step:
                    return {}
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except (OSError, SafetensorError, ValueError):
            return {}

    @torch.no_grad()
    def measure(
        self, weights: dict[str, Tensor], first: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A line of the log: mean losses over training's timesteps, and by noise level, each with its standard error.
        And every single loss.

        ``floor_scale`` times the squared error of x0 is the loss at a level, ``mass`` its share of the timesteps.
        ``ahead``: by how much more the loss on trained samples has fallen since ``first`` than that on held-out ones.
        """
        recipe, device = self._recipe, self._engine.device
        levels = self._levels
        network = load_network(recipe, weights).to(device).eval().requires_grad_(False)
        found: dict[str, Any] = {
            "sigma": levels.sigma.tolist(),
            "mass": levels.mass.tolist(),
            "floor_scale": levels.scale.tolist(),
        }
        all_losses: dict[str, Tensor] = {}
        fell: dict[str, float] = {}
        for name, samples in self._sets.items():
            pairs = _Pairs(samples, len(levels.t), recipe.train.holdout_n)
            losses = torch.empty(len(pairs.samples), dtype=torch.float64)
            for part in pairs.parts(self._store.shapes):
                losses[part] = self._losses(network, pairs, part).double().cpu()
            found |= pairs.summary(name, losses, levels.mass)
            all_losses[name] = losses
            if name in first and first[name].shape == losses.shape:
                fell |= pairs.summary(name, first[name] - losses, levels.mass)
        if "loss_train" in fell and "loss_held_out" in fell:
            found["ahead"] = fell["loss_train"] - fell["loss_held_out"]
            found["ahead_se"] = math.hypot(fell["loss_train_se"], fell["loss_held_out_se"])
        return found, all_losses

    def _losses(self, network: torch.nn.Module, pairs: "_Pairs", part: Tensor) -> Tensor:
        """(b,) squared errors as training weights them, of some noisy samples."""
        recipe, device, codec = self._recipe, self._engine.device, self._store.contract.codec
        numbers, samples = part, pairs.samples[part.numpy()]
        flip = None
        if recipe.data.horizontal_flip:
            flip = (uniform(_SEED, RngStream.HOLDOUT, 3, numbers) < 0.5).numpy()
        stored = self._store.read(samples, flip).to(device)
        shape = (recipe.in_channels, *stored.shape[2:])
        at = numbers.to(device)
        eps = normal(_SEED, RngStream.HOLDOUT, 2, at, shape) if codec.stores_std else None
        x0 = codec.to_model_space(stored, eps)
        noise = normal(_SEED, RngStream.HOLDOUT, 1, at, shape)
        loss = self._loss
        t = self._levels.t[pairs.levels[part]].to(device)
        t = t.to(x0.dtype) if t.is_floating_point() else t
        x_t, t_model = loss.noisy(x0, t, noise)
        y = None
        if recipe.model.num_classes and self._store.labels is not None:
            y = torch.from_numpy(self._store.labels[samples]).to(device)
        with self._engine.autocast():
            out = network(x_t, t_model, y).float()
        return loss(out, x0, x_t, t, noise).mse


class _Pairs:
    """Noisy samples, each at one level: as many at each, and all samples alike often, those first that hash lowest."""

    def __init__(self, samples: npt.NDArray[np.int64], levels: int, count: int) -> None:
        order = in_order(samples)
        numbers = np.arange(-(-count // levels) * levels)
        self.count = levels
        self.samples = order[numbers % len(order)]
        # One further in each round, or a sample would meet the same levels again and again.
        self.levels = torch.from_numpy((numbers + numbers // len(order)) % levels)

    def parts(self, shapes: npt.NDArray[np.uint8] | None) -> list[Tensor]:
        """Numbers of pairs, a batch each, of samples of one shape."""
        numbers = torch.arange(len(self.samples))
        if shapes is None:
            return list(numbers.split(_BATCH))
        own = torch.from_numpy(shapes[self.samples])
        return [part for shape in own.unique() for part in numbers[own == shape].split(_BATCH)]

    def summary(self, name: str, losses: Tensor, mass: Tensor) -> dict[str, Any]:
        """By level, and over all; the standard error over all is of samples, each of which may be here often."""
        each = torch.bincount(self.levels, minlength=self.count).double().clamp(min=1)
        mean = torch.bincount(self.levels, losses, minlength=self.count) / each
        left = losses - mean[self.levels]
        std = (torch.bincount(self.levels, left**2, minlength=self.count) / (each - 1).clamp(min=1)).sqrt()
        share = (mass / each)[self.levels]
        _, which = np.unique(self.samples, return_inverse=True)
        by_sample = torch.bincount(torch.from_numpy(which), share * left)
        return {
            f"loss_{name}": float(mass @ mean),
            f"loss_{name}_se": float((by_sample**2).sum().sqrt()),
            f"levels_{name}": mean.tolist(),
            f"levels_{name}_se": (std / each.sqrt()).tolist(),
            f"samples_{name}": len(by_sample),
        }
