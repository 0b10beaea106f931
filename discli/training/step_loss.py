"""The loss of a step's samples: what is drawn, made noisy, asked of the network, and compared."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from discli.diffusion import DiffusionLoss
from discli.model import DiS
from discli.model.routing import Route
from discli.recipe import DataContract, Recipe
from discli.recipe.size import Size
from discli.runtime.rng import RngStream, normal, uniform
from discli.training.auxiliary import Auxiliary
from discli.training.averaged import Drawn
from discli.training.batches import Batch
from discli.training.engine import Engine
from discli.training.routing import draw_route
from discli.training.window import Window


class Inputs(NamedTuple):
    """Some samples of a step, with all that is drawn for them: the loss is a function of it and of the weights."""

    drawn: Drawn
    x_t: Tensor  # (b, C, H, W)
    t_model: Tensor  # (b,) as the network takes it
    keep: Tensor | None  # (layers + 1, b) factors of drop path
    route: Route | None
    other: Tensor | None  # (b, C, H, W), a neighbour's noise less its x0, for a contrastive loss
    further: tuple[str, ...]  # names of the further losses that the step has
    features: Mapping[str, Tensor]  # by network


class StepLoss:
    """The diffusion's loss and the further ones. Nothing is drawn but by address: (seed, purpose, step, sample).

    Drawing is apart from the loss, which is given tensors alone: those a CUDA graph can be told anew for each step.
    ``model`` is what to call instead of ``network`` (`discli.training.engine.Engine.wrap`).
    """

    def __init__(
        self,
        recipe: Recipe,
        contract: DataContract,
        network: DiS,
        model: nn.Module,
        auxiliary: Auxiliary,
        engine: Engine,
    ) -> None:
        self._recipe, self._codec = recipe, contract.codec
        self._model, self._auxiliary, self._engine = model, auxiliary, engine
        self._drop_path_rates = network.drop_path_rates().to(engine.device)
        self.diffusion = DiffusionLoss(recipe.diffusion)

    def draw(self, seed: int, batch: Batch, part: slice) -> Inputs:
        """Some of a batch's samples on the device, with all that is drawn for them."""
        recipe, device, step = self._recipe, self._engine.device, batch.step
        contrastive = recipe.diffusion.contrastive > 0
        # Of neighbours in the global batch, so that no partner depends on processes or micro-batches.
        seen = slice(part.start, part.stop + 1) if contrastive else part
        slots = batch.slots[seen].to(device, non_blocking=True)
        stored = batch.stored[seen].to(device, non_blocking=True)
        shape = (recipe.in_channels, *stored.shape[2:])
        eps = normal(seed, RngStream.LATENT, step, slots, shape) if self._codec.stores_std else None
        x0 = self._codec.to_model_space(stored, eps)

        noise = normal(seed, RngStream.NOISE, step, slots, shape)
        other = None
        if contrastive:
            other = (noise - x0)[1:]
            slots, x0, noise = slots[:-1], x0[:-1], noise[:-1]
        fraction = uniform(seed, RngStream.TIMESTEP, step, slots)
        t = self.diffusion.timesteps(fraction)
        x_t, t_model = self.diffusion.noisy(x0, t, noise)

        y = self._labels(seed, batch, part, slots)
        keep = None
        if recipe.model.drop_path_rate > 0:
            draws = uniform(seed, RngStream.DROP_PATH, step, slots, self._drop_path_rates.shape)
            rates = self._drop_path_rates
            keep = ((draws >= rates) / (1 - rates)).T.contiguous()

        earlier = uniform(seed, RngStream.TEACHER, step, slots) if self._auxiliary.has_teacher else None
        features = {name: grid[part].to(device, non_blocking=True) for name, grid in batch.features.items()}
        return Inputs(
            Drawn(x0, noise, t, y, earlier),
            x_t,
            t_model,
            keep,
            draw_route(recipe, seed, step, slots, Size(*shape[1:]).cut_into(recipe.model.patch_size).area),
            other,
            self._auxiliary.at(step),
            features,
        )

    def __call__(self, inputs: Inputs, window: Window) -> Tensor:
        """(b,), each loss times its weight; ``window`` is told what the log shows."""
        drawn = inputs.drawn
        with self._engine.autocast(), self._auxiliary.watching(inputs.further):
            out = self._model(inputs.x_t, inputs.t_model, drawn.y, inputs.keep, inputs.route).float()
        losses = self.diffusion(out, drawn.x0, inputs.x_t, drawn.t, drawn.noise, inputs.other)
        further = self._auxiliary(inputs.further, drawn, inputs.features)
        vb = None if losses.vb is None else losses.vb.detach()
        window.add_samples(losses.loss.detach(), losses.mse.detach(), vb, drawn.t / self._last_timestep)
        window.add_auxiliary(further)
        return losses.loss + self._auxiliary.weighted(further)

    @property
    def _last_timestep(self) -> float:
        diffusion = self._recipe.diffusion
        return 1.0 if diffusion.objective.process == "flow" else float(diffusion.num_timesteps)

    def _labels(self, seed: int, batch: Batch, part: slice, slots: Tensor) -> Tensor | None:
        """Classes, some replaced by the null class so that guidance has something to guide from."""
        num_classes = self._recipe.model.num_classes
        if num_classes == 0:
            return None
        assert batch.labels is not None
        labels = batch.labels[part].to(slots.device, non_blocking=True)
        draws = uniform(seed, RngStream.CLASS_DROPOUT, batch.step, slots)
        return torch.where(draws < self._recipe.train.class_dropout_prob, num_classes, labels)
