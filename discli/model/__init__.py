"""The network. `discli.model.dis` is where to start reading."""

from discli.model.dis import DiS

__all__ = ["DiS"]
