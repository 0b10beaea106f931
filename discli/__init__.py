"""Diffusion models with state-space backbones (DiS, arXiv:2402.05608): train, sample, score.

In a notebook:

    from discli import load, sample
    model = load("runs/mine")
    sample(model, 16, cfg_scale=2.0)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Not imported before it is used: torch takes seconds, and ``discli --help`` must not wait for it.
    # ``sample`` needs nothing here: it is the module `discli.sample`, which can be called.
    if name == "load":
        return import_module("discli.trained").load
    raise AttributeError(f"module 'discli' has no attribute {name!r}")
