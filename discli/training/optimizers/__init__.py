"""How gradients change weights. One file each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from discli.recipe.choices import build
from discli.recipe.spec import ChoiceSpec
from discli.recipe.train import TrainSpec
from discli.training.engine import like

# Of one tensor for each process, in the order of ranks, fills in what the others have put in theirs.
Exchange = Callable[[Sequence[Tensor]], None]


class Optimizer(ABC):
    """One of PyTorch's optimizers or several, each with some of the parameters; the learning rate is that of all.

    What they keep for a parameter is in every checkpoint, and so is all that a resumed run needs of them.
    """

    spec: ClassVar[type[ChoiceSpec]]

    def __init__(self, model: nn.Module, train: TrainSpec) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self.parts = self.share_out(model, train)
        shared = [name for part in self.parts for name, _ in self._of(part)]
        assert sorted(shared) == sorted(self._names.values()), "each parameter belongs to one part"

    @abstractmethod
    def share_out(self, model: nn.Module, train: TrainSpec) -> list[torch.optim.Optimizer]:
        """The optimizers that do the work. Each parameter of ``model`` must be in one of them."""

    def kinds(self, part: torch.optim.Optimizer) -> set[str]:
        """What one of `share_out` keeps for each of its parameters, by name; here those of AdamW."""
        return {"step", "exp_avg", "exp_avg_sq"}

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def share_work(self, rank: int, world: int, exchange: Exchange) -> None:  # noqa: B027 - most have nothing to share
        """From now on ``world`` processes that hold the same weights and gradients make every step together.

        They may share what is costly; what is not shared here, each does for itself.
        """

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def set_lr(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr

    def _of(self, part: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
        for group in part.param_groups:
            for parameter in group["params"]:
                yield self._names[parameter], parameter

    def tensors(self) -> dict[str, Tensor]:
        """What is kept for each parameter, as ``<kind>.<parameter>``: ``exp_avg.head.linear.weight``."""
        return {
            f"{kind}.{name}": value
            for part in self.parts
            for name, parameter in self._of(part)
            for kind, value in part.state.get(parameter, {}).items()
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """What `tensors` gave. Raises ValueError where it was another optimizer's or another network's.

        Nothing is kept for a parameter that no step had a gradient for: all where each step was skipped, those of a
        further loss that stopped before it began.
        """
        kept: dict[str, dict[str, Tensor]] = {}
        for key, value in saved.items():
            kind, _, name = key.partition(".")
            kept.setdefault(name, {})[kind] = value
        if strange := kept.keys() - {name for part in self.parts for name, _ in self._of(part)}:
            raise ValueError(f"{min(strange)} is a parameter of another network")
        for part in self.parts:
            part.state.clear()
            on_device = bool(part.defaults.get("fused"))
            for name, parameter in self._of(part):
                if name not in kept:
                    continue
                if kept[name].keys() != self.kinds(part):
                    raise ValueError(f"{name}: {sorted(kept[name])} of another optimizer")
                part.state[parameter] = {
                    kind: (value.to(parameter.device) if on_device else value)
                    if kind == "step"
                    else like(parameter, value)
                    for kind, value in kept[name].items()
                }


def build_optimizer(model: nn.Module, train: TrainSpec) -> Optimizer:
    """The recipe's, of all parameters of ``model``."""
    optimizer: Optimizer = build(train.optimizer, model, train)
    return optimizer
