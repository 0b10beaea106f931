"""What all mixers that scan have in common: every walk over the tokens is scanned in both directions."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import cast

from torch import Tensor, nn

from discli.model.order import Path


class BidirectionalMixer(nn.Module, ABC):
    """(B, L, D) to (B, L, D): each token hears all others, at a cost linear in L.

    ``in_proj`` makes what is scanned and a gate, ``out_proj`` brings back what the scans found, added
    up; both are shared, while each direction of each path has parameters of its own.
    """

    mlp_ratio = 0  # in_proj and out_proj mix channels already

    def __init__(self, embed_dim: int, d_inner: int, direction: Callable[[], nn.Module], paths: Sequence[Path]) -> None:
        super().__init__()
        self.in_proj = nn.Linear(embed_dim, 2 * d_inner, bias=False)
        self.forward_scan = direction()
        self.backward_scan = direction()
        self.other_scans = nn.ModuleList(direction() for _ in range(2 * (len(paths) - 1)))
        self.out_proj = nn.Linear(d_inner, embed_dim, bias=False)
        self.paths = nn.ModuleList(paths)

    @property
    def forward_scans(self) -> list[nn.Module]:
        """One for each path."""
        return [self.forward_scan, *self.other_scans[::2]]

    @property
    def backward_scans(self) -> list[nn.Module]:
        """One for each path."""
        return [self.backward_scan, *self.other_scans[1::2]]

    def forward(self, u_BLD: Tensor) -> Tensor:
        x_BLE, z_BLE = self.in_proj(u_BLD).chunk(2, dim=-1)
        scans = zip(cast(Iterable[Path], self.paths), self.forward_scans, self.backward_scans, strict=True)
        ys = [path.back(self.both_ways(path.there(x_BLE), path.there(z_BLE), *pair)) for path, *pair in scans]
        mixed: Tensor = self.out_proj(reduce(operator.add, ys))
        return mixed

    @abstractmethod
    def both_ways(self, x_BLE: Tensor, z_BLE: Tensor, forward: nn.Module, backward: nn.Module) -> Tensor:
        """(forward scan of x + backward scan of x) * SiLU(z), tokens in the order in which they are walked."""
