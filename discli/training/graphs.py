"""A step's passes forward and back as one CUDA graph: one launch instead of thousands. No GPU has run it yet.

In the graph are the network, all losses, the gradients and their clipping, and the log window's sums. Outside
stay what is drawn, the agreement on what is not finite, and the update: seeds, learning rates and averages' decays
are numbers of the step, which a graph would repeat for ever. So all that is addressed by the step is as ever, and
some hundred launches remain.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from discli.runtime.errors import DiscliError

_WARM_UPS = 3  # as PyTorch's documentation has it: kernels compile, libraries make ready


def check_graphs(device: torch.device, world_size: int) -> None:
    """Raises DiscliError where a step cannot be a CUDA graph."""
    if device.type != "cuda":
        raise DiscliError(
            f"train.cuda_graphs: this training runs on {device.type}, and only a GPU has CUDA graphs.",
            "Leave it out: a run may go on with other settings of train.cuda_graphs.",
        )
    if world_size > 1:
        raise DiscliError(
            f"train.cuda_graphs: gradients of {world_size} processes are added up between them, outside of a graph.",
            "Train with one process, or leave train.cuda_graphs out.",
        )


class StepGraph:
    """``passes``, a function of tensors, replayed with the values of each step.

    It is caught anew where anything but values changes: shapes, which losses a step has, whether patches skip blocks,
    or the window, which a roll-back makes anew. ``forget`` undoes what ``passes`` leaves behind, and
    ``parameters`` are whose gradients it makes. The memory of a step stays reserved between steps.
    """

    def __init__(
        self, passes: Callable[[Any], Tensor], forget: Callable[[], None], parameters: Iterable[Tensor]
    ) -> None:
        self._passes, self._forget, self._parameters = passes, forget, list(parameters)
        self._caught_of: object = None
        self._replay: Callable[[], object] = lambda: None
        self._answer = torch.empty(0)
        self._gradients: list[tuple[Tensor, Tensor]] = []

    def __call__(self, inputs: object, window: object) -> Tensor:
        """What ``passes(inputs)`` returns, and leaves in gradients; ``window`` is what else it writes to.

        The answer and the gradients are the same memory every time.
        """
        leaves, spec = pytree.tree_flatten(inputs)
        found = [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec, window
        if found != self._caught_of:
            del self._replay, self._answer, self._gradients  # so that the memory of the one before is free again
            self._leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self._catch(pytree.tree_unflatten(self._leaves, spec))
            self._caught_of = found
        for kept, leaf in zip(self._leaves, leaves, strict=True):
            if isinstance(leaf, Tensor):
                kept.copy_(leaf)
        self._replay()
        for parameter, gradient in self._gradients:  # whoever has used them has set them to None
            parameter.grad = gradient
        return self._answer

    def _catch(self, inputs: object) -> None:
        with beside():
            for _ in range(_WARM_UPS):
                self._passes(inputs)
                self._forget()

        def run() -> None:
            self._answer = self._passes(inputs)

        self._replay = catch(run)
        self._gradients = [(p, p.grad) for p in self._parameters if p.grad is not None]
        self._forget()


@contextmanager
def beside() -> Iterator[None]:
    """On another stream of the GPU, as PyTorch wants it before a graph is caught."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def catch(run: Callable[[], None]) -> Callable[[], object]:
    """``run`` as a CUDA graph, without running it: the function that replays it."""
    graph = torch.cuda.CUDAGraph()
    # Of this thread: the feed's pins memory meanwhile, which a graph of all threads would not bear.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay
