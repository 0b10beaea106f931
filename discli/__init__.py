"""Diffusion models with state-space backbones (DiS, arXiv:2402.05608): train, sample, score.

In a notebook:

    from discli import load, sample
    model = load("runs/mine")
    sample(model, 16, cfg_scale=2.0)
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discli.data.encode import encode
    from discli.evaluation.evaluate import evaluate
    from discli.sampling.load import load
    from discli.sampling.sample import sample
    from discli.training.train import train

__version__ = "0.1.0"
__all__ = ["encode", "evaluate", "load", "sample", "train"]

# GNU's OpenMP runtime, which PyTorch brings along, lets threads that wait spin for milliseconds: on cores that
# another process needs, and in a container on more threads than cores, everyone then waits for the spinning.
# It reads this once, when torch is imported; what a user has set about waiting stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Not imported before they are used: torch takes seconds, and ``discli --help`` must not wait for it.
_WHERE = {
    "encode": "discli.data.encode:encode",
    "train": "discli.training.train:train",
    "load": "discli.sampling.load:load",
    "sample": "discli.sampling.sample:sample",
    "evaluate": "discli.evaluation.evaluate:evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'discli' has no attribute {name!r}")
    module, function = _WHERE[name].split(":")
    return getattr(import_module(module), function)
