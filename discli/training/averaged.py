"""The averaged weights as a teacher: what they see in a less noisy version of what the network is trained on."""

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from discli.diffusion import DiffusionLoss
from discli.model.dis import load_network
from discli.recipe import Recipe
from discli.recipe.kinds import Averaged


class Drawn(NamedTuple):
    """What the network was trained on: all that a loss may make noisy anew."""

    x0: Tensor  # (b, C, H, W)
    noise: Tensor  # (b, C, H, W)
    t: Tensor  # (b,) timesteps of the schedule
    y: Tensor | None  # (b,) int64, with dropped classes
    earlier: Tensor | None = None  # (b,) uniforms in [0, 1): how much less noise the averaged weights see


class _FarEnoughError(Exception):
    """Behind the block that was asked for nothing more is computed."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


class AveragedTeacher:
    """A network whose parameters are the averaged weights themselves: no copy, and as old as the last step."""

    def __init__(self, recipe: Recipe, weights: Mapping[str, Tensor], loss: DiffusionLoss) -> None:
        self._network, self._loss = load_network(recipe, weights).eval().requires_grad_(False), loss

    @torch.no_grad()
    def __call__(self, drawn: Drawn, lesson: Averaged) -> Tensor:
        """(b, patches, D) float32, the residual stream behind the block, in raster order."""
        assert drawn.earlier is not None
        t = self._loss.schedule.earlier(drawn.t, lesson.earlier * drawn.earlier.double())
        x_t, t_model = self._loss.noisy(drawn.x0, t, drawn.noise)
        hook = self._network.blocks[lesson.block - 1].register_forward_hook(self._stop)
        try:
            self._network(x_t, t_model, drawn.y)
        except _FarEnoughError as stop:
            return stop.tokens
        finally:
            hook.remove()
        raise AssertionError("every block is reached")

    def _stop(self, _block: Any, _inputs: Any, streams: tuple[Tensor, Tensor]) -> NoReturn:
        hidden, residual = streams
        tokens = residual + hidden.to(residual.dtype)
        raise _FarEnoughError(tokens[:, self._network.conditioning.extra_tokens :])
