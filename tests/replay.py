"""A CUDA graph's semantics on a CPU: operations caught once, then replayed on the same memory.

As of a graph, nothing but operations on tensors is caught. Numbers of Python's are what they were, a tensor's values
are what its memory holds at the time, and answers are written to where the first one lay. Needs a test's patience:
all that a step computes stays in memory.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from discli.training import engine, graphs


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        answer = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, answer))
        return answer


def catch(run: Callable[[], None]) -> Callable[[], None]:
    """In the place of `discli.training.graphs.catch`."""
    with _Recorder() as recorder:
        run()

    @torch.no_grad()
    def replay() -> None:
        for func, args, kwargs, answer in recorder.calls:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(answer), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # no view, and not in place
                    old.copy_(new)

    return replay


def on_a_cpu(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Lets ``train.cuda_graphs`` run on a CPU, so. ``put``: setattr, or pytest's that takes it back."""
    put(engine, "check_graphs", lambda *where: None)
    put(graphs, "beside", nullcontext)
    put(graphs, "catch", catch)
