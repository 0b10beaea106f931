"""torch.compile of blocks: all of one kind share one compiled graph, so that depth costs no time to compile."""

import copy
import os
import shutil

import torch

from discli.model.dis import DiS
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world

_COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_blocks(network: DiS, device: torch.device) -> None:
    """Compiles the blocks of ``network`` where it stands, at their first call.

    The first block has no residual stream to add to, would need a graph of its own, and stays as it is.
    Raises DiscliError on a CPU without a C++ compiler, which torch.compile needs there.
    """
    check_compiler(device)
    if rank_and_world()[0] == 0:
        stderr.print("One block of each kind is compiled at its first call: some 15 s; then kept on disk.")
    options = _always_the_same() if device.type == "cuda" else None
    for block in list(network.blocks)[1:]:
        block.compile(dynamic=False, options=options)


def _always_the_same() -> dict[str, bool] | None:
    """Of Inductor on a GPU: no kernel chosen by its time.

    The quickest may add up in another order, and another day, or without its cache on disk, a run get other bits.
    """
    from torch import _inductor

    return {"deterministic": True} if "deterministic" in _inductor.list_options() else None  # older releases lack it


def with_compiled_blocks(network: DiS, device: torch.device) -> DiS:
    """A network of the same parameters whose blocks are compiled; the one that is given stays as it is.

    Raises what `compile_blocks` does.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    compile_blocks(twin, device)
    return twin


def check_compiler(device: torch.device) -> None:
    """Raises DiscliError where torch.compile would find no C++ compiler for its kernels."""
    if device.type == "cpu" and not any(map(shutil.which, filter(None, (os.environ.get("CXX"), *_COMPILERS)))):
        raise DiscliError(
            "compile: torch.compile needs a C++ compiler on a CPU, and there is none.",
            "Install g++ or clang++ (or name one in CXX), or leave compile out.",
        )
