"""Tables that are needed on the device of a batch."""

import torch
from torch import Tensor


class Copied:
    """Tensors, copied to each device once: a copy in every step would wait for the GPU."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._copies: dict[torch.device, tuple[Tensor, ...]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._copies:
            self._copies[device] = tuple(tensor.to(device) for tensor in self._tensors)
        return self._copies[device]
