"""Losses beside the diffusion's, on what the network's blocks put out: one file each, the table ``[train.NAME]``."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from discli.diffusion import DiffusionLoss
from discli.model import DiS
from discli.recipe import DataContract, Recipe
from discli.recipe.choices import implementation
from discli.recipe.kinds import AuxiliarySpec, AveragedOutput
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from discli.training.averaged import AveragedTeacher, Drawn
from discli.training.engine import Engine, fill
from discli.training.optimizers import build_optimizer

STEM = "auxiliary"  # of its file in a checkpoint


class AuxiliaryLoss(nn.Module, ABC):
    """One more loss. Its own parameters are trained beside the network's; sampling never needs them.

    Whatever is drawn must be drawn by address (`discli.runtime.rng`), or resuming would not be exact.
    """

    spec: ClassVar[type[AuxiliarySpec]]
    grid: Size  # of the batch's patches, set before each call

    def __init__(self, spec: AuxiliarySpec, recipe: Recipe, contract: DataContract) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, outputs: Mapping[int, Tensor], target: Tensor | None) -> Tensor:
        """(b,) losses. ``outputs`` of the blocks that its Spec looks at, counted from 0: (b, patches, D) float32 in
        raster order, without conditioning tokens.

        ``target``: the averaged weights' output, like ``outputs``, where its Spec learns from them; features
        (b, rows, columns, channels) float16 of the clean images, mirrored as they are, where it names some.
        """


class BlockOutputs:
    """Keeps what blocks put out while somebody watches: the residual stream behind them."""

    def __init__(self, network: DiS, blocks: Iterable[int]) -> None:
        self._streams: dict[int, tuple[Tensor, Tensor]] = {}
        self._extra = network.conditioning.extra_tokens
        self._watching = False
        for index in sorted(set(blocks)):
            network.blocks[index].register_forward_hook(self._hook(index))

    def _hook(self, index: int) -> Any:
        def keep(_block: nn.Module, _inputs: Any, streams: tuple[Tensor, Tensor]) -> None:
            if self._watching:  # activation checkpointing calls blocks again, on the way back
                self._streams[index] = streams

        return keep

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def take(self) -> dict[int, Tensor]:
        """(b, patches, D) of each block since the last time."""
        streams, self._streams = self._streams, {}
        return {
            index: (residual + hidden.to(residual.dtype))[:, self._extra :]
            for index, (hidden, residual) in streams.items()
        }


class Auxiliary:
    """All of a recipe's further losses, their parameters and the optimizer of those.

    The parameters stay out of `Engine.wrap`: one process after another adds its gradients to the others'. They
    are clipped by themselves. A loss ends with the step that its ``stop_at`` says.
    """

    def __init__(self, recipe: Recipe, contract: DataContract, network: DiS, engine: Engine) -> None:
        self._specs, self._spec, self._engine = recipe.train.auxiliary, recipe.train, engine
        self.names, self._patch_size = tuple(self._specs), recipe.model.patch_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed.init)
            made = {name: implementation(type(spec))(spec, recipe, contract) for name, spec in self._specs.items()}
        self.losses = nn.ModuleDict(made).to(engine.device)
        self._teacher: AveragedTeacher | None = None
        self._wanted: dict[str, AveragedOutput] = {}
        compared = {name: spec.compares_with() for name, spec in self._specs.items()}
        self._compared = {name: features.network for name, features in compared.items() if features}
        self.features = tuple(self._compared.values())
        blocks = [block - 1 for spec in self._specs.values() for block in spec.looks_at(recipe.model)]
        self._outputs = BlockOutputs(network, blocks)
        self.optimizer = (
            build_optimizer(self.losses, recipe.train) if any(True for _ in self.losses.parameters()) else None
        )

    def learn_from(self, recipe: Recipe, averaged: Mapping[str, Tensor], loss: DiffusionLoss) -> None:
        """Use ``averaged``, the averaged weights, for the losses that learn from them; they must stay those tensors.

        Raises DiscliError where they are sharded.
        """
        learners = {name: spec.learns_from(recipe.model) for name, spec in self._specs.items()}
        self._wanted = {name: wanted for name, wanted in learners.items() if wanted}
        if self._wanted:
            if self._engine.sharded:
                raise DiscliError(
                    f"train.{next(iter(self._wanted))} needs the whole of the averaged weights, which fsdp2 shards.",
                    'Use train.parallel = "ddp", or leave that loss out.',
                )
            self._teacher = AveragedTeacher(recipe, averaged, loss)

    def at(self, step: int) -> tuple[str, ...]:
        """Names of the losses that step 0, 1, ... has."""
        return tuple(n for n, spec in self._specs.items() if step < round(spec.stop_at * self._spec.steps))

    @property
    def has_teacher(self) -> bool:
        return self._teacher is not None

    @contextmanager
    def watching(self, names: tuple[str, ...]) -> Iterator[None]:
        """Around the forward pass of a step that has the losses of those names."""
        if not names:
            yield
            return
        with self._outputs.watching():
            yield

    def __call__(self, names: tuple[str, ...], drawn: Drawn, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(b,) of each loss, after a forward pass of ``drawn`` that was watched; ``features`` by network."""
        outputs, grid = self._outputs.take(), Size(*drawn.x0.shape[2:]).cut_into(self._patch_size)
        found: dict[str, Tensor] = {}
        for name in names:
            target = features[self._compared[name]] if name in self._compared else None
            with self._engine.autocast():
                if name in self._wanted:
                    assert self._teacher is not None
                    target = self._teacher(drawn, self._wanted[name])
                loss = cast(AuxiliaryLoss, self.losses[name])
                loss.grid = grid
                found[name] = loss(outputs, target).float()
        return found

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor | float:
        """Their sum, each times its weight, (b,); 0 of none."""
        return sum((self._specs[name].weight * loss for name, loss in losses.items()), start=0.0)

    def clip(self, max_norm: float) -> Tensor:
        """Gradients averaged over the processes, then scaled down to ``max_norm``; their norm before, ()."""
        parameters = [p for p in self.losses.parameters() if p.grad is not None]
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad = self._engine.sum(parameter.grad) / self._engine.world_size
        return (
            nn.utils.clip_grad_norm_(parameters, max_norm)
            if parameters
            else torch.zeros((), device=self._engine.device)
        )

    def update(self, lr: float) -> None:
        if self.optimizer is not None:
            self.optimizer.set_lr(lr)
            self.optimizer.step()
        self.forget()

    def forget(self) -> None:
        """The gradients."""
        self.losses.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """For a checkpoint: a file by its stem, if there is anything to keep."""
        if self.optimizer is None:
            return {}
        weights = {f"weights.{name}": p.detach().cpu() for name, p in self.losses.named_parameters()}
        return {STEM: weights | {k: v.cpu() for k, v in self.optimizer.tensors().items()}}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        if self.optimizer is None:
            return
        parameters = dict(self.losses.named_parameters())
        fill(dict(parameters), {name: saved[f"weights.{name}"] for name in parameters})
        self.optimizer.restore({name: tensor for name, tensor in saved.items() if not name.startswith("weights.")})
