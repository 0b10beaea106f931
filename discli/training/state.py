"""All that changes from step to step, how it is written down, and how it is loaded again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from discli.recipe.train import TrainSpec
from discli.runs.checkpoint import (
    newest_checkpoint,
    prune,
    read_state,
    read_tensors,
    write_checkpoint,
    write_snapshot,
)
from discli.runs.layout import RunFolder
from discli.runtime.errors import DiscliError
from discli.training.auxiliary import Auxiliary
from discli.training.ema import ConstantEma, PowerEma
from discli.training.engine import Engine, fill, whole
from discli.training.optimizers import Optimizer
from discli.training.window import Window

Metadata = Mapping[str, str]


class TrainingState:
    """Weights, averages, optimizer, the open log window and some counters; random streams need no state.

    Whatever gathers sharded tensors is called by all ranks; ``metadata`` is None on those that don't write.
    """

    def __init__(
        self, folder: Path, network: nn.Module, optimizer: Optimizer, ema: ConstantEma | PowerEma, engine: Engine,
        auxiliary: Auxiliary,
    ) -> None:  # fmt: skip
        self.folder, self.network, self.optimizer, self.ema, self._engine = folder, network, optimizer, ema, engine
        self._auxiliary = auxiliary
        self.window = Window(engine.device, auxiliary=auxiliary.names)
        self.step = 0  # steps done; also the number of the step to do next
        self.rollbacks = 0
        self.good_steps = 0  # since the last roll-back
        self.skipped_in_a_row = 0

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False if there is none at all.

        Raises DiscliError where all are corrupt, or the newest is of another network.
        """
        checkpoint = newest_checkpoint(self.folder)
        if checkpoint is None:
            if RunFolder(self.folder).find_checkpoints():
                raise DiscliError(
                    f"All checkpoints of {self.folder} are corrupt.",
                    f"Give another --out, or remove {RunFolder(self.folder).checkpoints} to start the run over.",
                )
            return False
        state = read_state(checkpoint)
        if "window" not in state:
            raise DiscliError(
                f"{checkpoint} contains averaged weights only: it can be sampled from, but not resumed.",
                "Give another --out.",
            )
        try:
            self._take_up(checkpoint, state)
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise DiscliError(
                f"{checkpoint} is whole, but not of this recipe's network ({error}).",
                "Move it away to resume from the one before, or give another --out.",
            ) from None
        return True

    def _take_up(self, checkpoint: Path, state: Mapping[str, Any]) -> None:
        fill(dict(self.network.named_parameters()), read_tensors(checkpoint, "model"))
        for stem, weights in self.ema.averages.items():
            fill(weights, read_tensors(checkpoint, stem))
        self.optimizer.restore(read_tensors(checkpoint, "optimizer"))
        for stem in self._auxiliary.tensors():
            self._auxiliary.restore(read_tensors(checkpoint, stem))
        self.step, self.rollbacks = int(state["step"]), int(state["rollbacks"])
        self.skipped_in_a_row = int(state["skipped_in_a_row"])
        self.good_steps = int(state.get("good_steps", self.step))  # older ones lack it
        sums = state["window"] if self._engine.is_main else None
        self.window = Window(self._engine.device, sums, self._auxiliary.names)

    def checkpoint(self, metadata: Metadata | None, spec: TrainSpec) -> None:
        """Write all of it, and delete what ``spec`` does not keep."""
        window = self._engine.sum(self.window.sums.clone())
        main = metadata is not None
        files = {
            "model": whole(dict(self.network.named_parameters()), wanted=main),
            "optimizer": whole(self.optimizer.tensors(), wanted=main),
        }
        files |= {stem: whole(weights, wanted=main) for stem, weights in self.ema.averages.items()}
        files |= self._auxiliary.tensors()
        if metadata is None:
            self.window.clear()  # rank 0 holds the sums of all from here on
            return
        self.window.sums.copy_(window)
        counters = {name: getattr(self, name) for name in ("rollbacks", "skipped_in_a_row", "good_steps")}
        write_checkpoint(self.folder, self.step, files, {**counters, "window": window.tolist()}, metadata)
        prune(self.folder, self.step, spec.keep_last, spec.keep_every)

    def snapshot(self, metadata: Metadata | None) -> None:
        """The averages alone, where they are of the kind that others are rebuilt from, at the steps for it."""
        if not isinstance(self.ema, PowerEma) or self.step % self.ema.snapshot_every:
            return
        main = metadata is not None
        averages = {stem: whole(weights, wanted=main) for stem, weights in self.ema.averages.items()}
        if metadata is not None:
            write_snapshot(self.folder, self.step, averages, self.ema.stds, metadata)
