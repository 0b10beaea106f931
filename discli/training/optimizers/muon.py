"""Muon for the hidden matrices, AdamW for the rest."""

from typing import Annotated, Literal

import torch
from pydantic import Field, Strict
from torch import Tensor, nn

from discli.model.lora import hidden_matrices
from discli.recipe.spec import ChoiceSpec, Flag, PositiveInt
from discli.recipe.train import TrainSpec
from discli.training.optimizers import Optimizer
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

    Most CPUs multiply bf16 half as fast as float32, and these iterations are most of what Muon costs.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if (gradient := matrix.grad) is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                average = state["momentum_buffer"]
                average.lerp_(gradient, 1 - momentum)
                ahead = gradient.lerp(average, momentum) if group["nesterov"] else average
                matrix.mul_(1 - lr * group["weight_decay"])
                step = _polar(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.add_(step, alpha=-0.2 * max(matrix.shape) ** 0.5 * lr)


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

    def kinds(self, part: torch.optim.Optimizer) -> set[str]:
        return {"momentum_buffer"} if isinstance(part, torch.optim.Muon) else super().kinds(part)
