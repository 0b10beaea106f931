"""AdamW and its learning rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from discli.recipe.train import LrSchedule, TrainSpec
from discli.training.engine import like


def build_optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101). Vectors, A_log and embeddings of position or class are never decayed."""
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim < 2 or name.endswith(("A_log", "pos_embed", "class_embed.weight"))
        (kept if exempt else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``exp_avg.<parameter>``, ``exp_avg_sq.<parameter>`` and ``step.<parameter>``."""
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    if not saved:  # of a run whose every step was skipped
        optimizer.state.clear()
        return
    fused = bool(optimizer.defaults.get("fused"))
    for name, parameter in model.named_parameters():
        step = saved[f"step.{name}"]
        optimizer.state[parameter] = {
            "step": step.to(parameter.device) if fused else step,
            "exp_avg": like(parameter, saved[f"exp_avg.{name}"]),
            "exp_avg_sq": like(parameter, saved[f"exp_avg_sq.{name}"]),
        }


def lr_at(schedule: LrSchedule, base: float, step: int, total: int) -> float:
    """Learning rate of step 0 .. total - 1; a pure function, so that resuming needs no state."""
    if step < schedule.warmup_steps:
        return base * (step + 1) / schedule.warmup_steps
    match schedule.name:
        case "constant":
            return base
        case "cosine":
            span = max(total - 1 - schedule.warmup_steps, 1)
            progress = min((step - schedule.warmup_steps) / span, 1.0)
            return schedule.min_lr + (base - schedule.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        case "inverse-sqrt":
            return base / math.sqrt(max(step / schedule.decay_after, 1.0))
