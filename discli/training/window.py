"""Running means between two log lines. Part of every checkpoint, so that a resumed log is the same."""

from collections.abc import Mapping

import torch
from torch import Tensor

_QUARTILES = 4
_SIZE = 4 + 2 * _QUARTILES + 2


class Window:
    """Sums over the samples and steps since the last log line, in float64 on the device.

    ``auxiliary``: the names of further losses, each with the number of its samples and their sum.
    """

    def __init__(self, device: torch.device, sums: list[float] | None = None, auxiliary: tuple[str, ...] = ()) -> None:
        size = _SIZE + 2 * len(auxiliary)
        if sums is not None and len(sums) != size:
            raise ValueError(f"a log window has {size} sums, not {len(sums)}")
        self.sums = torch.tensor(sums or [0.0] * size, dtype=torch.float64, device=device)
        self.auxiliary = auxiliary

    def add_samples(self, loss: Tensor, mse: Tensor, vb: Tensor | None, fraction: Tensor) -> None:
        """Per-sample values, (b,); ``fraction`` is the timestep's place in [0, 1)."""
        quartile = (fraction * _QUARTILES).long().clamp(0, _QUARTILES - 1)
        vb = torch.zeros_like(loss) if vb is None else vb
        head = torch.stack([torch.ones_like(loss), loss, mse, vb]).double().sum(1)
        # Masked sums, because index_add_ on a GPU adds in an order of its own each time.
        mine = quartile == torch.arange(_QUARTILES, device=loss.device).unsqueeze(1)
        by_quartile = torch.where(mine, loss.double(), 0.0).sum(1)
        self.sums[: 4 + 2 * _QUARTILES] += torch.cat([head, by_quartile, mine.double().sum(1)])

    def add_auxiliary(self, losses: Mapping[str, Tensor]) -> None:
        """(b,) of each that the step has."""
        for name, loss in losses.items():
            at = _SIZE + 2 * self.auxiliary.index(name)
            loss = loss.detach().double()
            self.sums[at : at + 2] += torch.stack([torch.ones_like(loss), loss]).sum(1)

    def is_finite(self) -> Tensor:
        """() bool, on the device: reading it waits for the step."""
        return torch.isfinite(self.sums).all()

    def add_step(self, grad_norm: float) -> None:
        self.sums[_SIZE - 2] += 1
        self.sums[_SIZE - 1] += grad_norm

    def means(self, total: Tensor, has_vb: bool) -> dict[str, float | None]:
        """Means of ``total``, the sums of all processes; None of a quartile, or a further loss, without samples."""
        count, loss, mse, vb, *rest = total[:_SIZE].tolist()
        sums, counts = rest[:_QUARTILES], rest[_QUARTILES : 2 * _QUARTILES]
        steps, grad_norm = rest[-2:]
        line: dict[str, float | None] = {"loss": loss / count, "mse": mse / count}
        if has_vb:
            line["vb"] = vb / count
        for i in range(_QUARTILES):
            line[f"loss_q{i + 1}"] = sums[i] / counts[i] if counts[i] else None
        for name, (seen, auxiliary) in zip(self.auxiliary, total[_SIZE:].view(-1, 2).tolist(), strict=True):
            line[f"{name}_loss"] = auxiliary / seen if seen else None
        line["grad_norm"] = grad_norm / steps
        return line

    def clear(self) -> None:
        self.sums.zero_()
