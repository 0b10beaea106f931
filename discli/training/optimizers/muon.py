"""Muon for the hidden matrices, AdamW for the rest."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from discli.model.lora import hidden_matrices
from discli.recipe.spec import ChoiceSpec, Flag, PositiveInt
from discli.recipe.train import TrainSpec
from discli.training.optimizers import Exchange, Optimizer
from discli.training.optimizers.adamw import adamw


class MuonSpec(ChoiceSpec):
    """Muon for the blocks' matrices, scaled to AdamW's step (arXiv:2502.16982), and AdamW for all else.

    A momentum's matrix U S V^T becomes U V^T, or near, by Newton-Schulz iterations, in bf16 (on CPUs in float32); the
    step is lr times 0.2 sqrt(max(rows, columns)) times that, whose RMS is AdamW's. So ``lr`` and ``weight_decay`` carry
    over.
    """

    name: Literal["muon"] = "muon"
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1, description="what is kept of the average gradient")] = 0.95
    nesterov: Annotated[Flag, Field(description="look ahead along the momentum")] = True
    ns_steps: Annotated[PositiveInt, Field(lt=100, description="Newton-Schulz iterations")] = 5


class InFloat32(torch.optim.Muon):
    """PyTorch's, whose iterations are in bf16 whatever the matrices are, with iterations in the matrices' own numbers.

    Most CPUs multiply bf16 half as fast as float32, and these iterations are most of what Muon costs. Processes that
    train together may share them: each does those of some matrices, and sends the others what came of it. All of them
    then make the same step, to the bit what each would have made alone.
    """

    rank, world = 0, 1
    exchange: Exchange

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        work = [(group, matrix) for group in self.param_groups for matrix in group["params"] if matrix.grad is not None]
        ahead = (self._ahead(group, matrix) for group, matrix in work)
        how = [(group["ns_coefficients"], group["ns_steps"], group["eps"]) for group, _ in work]
        for (group, matrix), step in zip(work, self._polar_of_each(ahead, how), strict=True):
            lr = group["lr"]
            matrix.mul_(1 - lr * group["weight_decay"])
            matrix.add_(step, alpha=-0.2 * max(matrix.shape) ** 0.5 * lr)

    def _ahead(self, group: dict[str, Any], matrix: Tensor) -> Tensor:
        """The momentum after this step's gradient, or what lies ahead of it."""
        gradient, momentum, state = matrix.grad, group["momentum"], self.state[matrix]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum) if group["nesterov"] else average

    def _polar_of_each(self, ahead: Iterable[Tensor], how: Sequence[Any]) -> Iterator[Tensor]:
        """One after the other; where they are shared, all at once, which takes memory for all of them."""
        if self.world == 1 or not how:
            yield from (_polar(matrix, *settings) for matrix, settings in zip(ahead, how, strict=True))
            return
        matrices = list(ahead)
        turns = take_turns([matrix.shape for matrix in matrices], self.world)
        parts = [matrices[0].new_empty(sum(matrices[i].numel() for i in turn)) for turn in turns]
        found: dict[int, Tensor] = {}
        for turn, part in zip(turns, parts, strict=True):
            pieces = part.split([matrices[i].numel() for i in turn])
            found |= {i: piece.view(matrices[i].shape) for i, piece in zip(turn, pieces, strict=True)}
        for i in turns[self.rank]:
            found[i].copy_(_polar(matrices[i], *how[i]))
        self.exchange(parts)
        yield from (found[i] for i in range(len(matrices)))


def take_turns(shapes: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Numbers of the matrices that each of ``count`` processes takes: the most costly first, to who has least to do."""
    cost = [min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes]
    turns: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for number in sorted(range(len(shapes)), key=lambda number: -cost[number]):
        least = loads.index(min(loads))
        turns[least].append(number)
        loads[least] += cost[number]
    return turns


def _polar(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """U V^T of U S V^T, or near: X becomes a X + b X X^T X + c X X^T X X^T X, ``steps`` times."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x: Tensor = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T


class Muon(Optimizer):
    """PyTorch's own, and PyTorch's AdamW."""

    spec = MuonSpec

    def __init__(self, model: nn.Module, train: TrainSpec, momentum: float, nesterov: bool, ns_steps: int) -> None:
        self._momentum, self._nesterov, self._ns_steps = momentum, nesterov, ns_steps
        super().__init__(model, train)

    def share_out(self, model: nn.Module, train: TrainSpec) -> list[torch.optim.Optimizer]:
        hidden = hidden_matrices(model)
        named = dict(model.named_parameters())
        rest = adamw(((name, parameter) for name, parameter in named.items() if name not in hidden), train)
        if not hidden:
            return [rest]
        matrices = [named[name] for name in hidden]
        kind = InFloat32 if matrices[0].device.type == "cpu" else torch.optim.Muon
        muon = kind(
            matrices,
            lr=train.lr,
            weight_decay=train.weight_decay,
            momentum=self._momentum,
            nesterov=self._nesterov,
            ns_steps=self._ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, rest]

    def share_work(self, rank: int, world: int, exchange: Exchange) -> None:
        for part in self.parts:
            if isinstance(part, InFloat32):
                part.rank, part.world, part.exchange = rank, world, exchange

    def kinds(self, part: torch.optim.Optimizer) -> set[str]:
        return {"momentum_buffer"} if isinstance(part, torch.optim.Muon) else super().kinds(part)
