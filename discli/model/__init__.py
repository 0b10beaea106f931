"""The network. `discli.model.dis` is where to start reading."""

from discli.model.dis import DiS, empty_network, load_network

__all__ = ["DiS", "empty_network", "load_network"]
