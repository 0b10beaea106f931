"""A small network in numbers that the repository carries, recorded while it equalled the authors' to 1e-13.

The authors' own numbers (`tests.golden`) are large and lie beside the project. Here weights and inputs come
from a formula, and what is kept are outputs and the norm of every gradient, in float64, so that a clone alone
can tell whether the network still computes what it did. ``python -m tests.model.recorded`` writes them anew.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.model import DiS
from tests.model.small import small

FILE = Path(__file__).with_name("recorded.json")
CASES: dict[str, dict[str, Any]] = {
    "unconditional": {"num_classes": 0},
    "class-conditional": {"num_classes": 4},
    "adaln-zero, gated, zigzag": {"conditioning": "adaln-zero", "skip": "gated", "scan_order": "zigzag"},
    "mamba2": {"mixer": "mamba2"},
    "mamba3": {"mixer": "mamba3"},
    "hydra": {"mixer": "hydra"},
    "dit": {"mixer": "dit"},
}


def wave(shape: torch.Size | tuple[int, ...], phase: float) -> Tensor:
    """Numbers between -1 and 1 of that shape that no random generator had a hand in, float64."""
    count = int(torch.tensor(shape).prod())
    return torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase).reshape(shape)


def measured(case: str) -> dict[str, Any]:
    """Outputs (B, C_out, S, S) as a flat list's first values and norm, and each parameter's gradient norm."""
    model: DiS = small(scan="reference", **CASES[case]).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.3 * wave(parameter.shape, number))
    x, t = wave((2, 3, 8, 8), 0.1), torch.tensor([10, 700])
    y = None if CASES[case].get("num_classes") == 0 else torch.tensor([1, 4])
    out = model(x, t, y)
    (out * wave(tuple(out.shape), 0.5)).sum().backward()
    return {
        "values": out.flatten()[:8].tolist(),
        "norm": float(out.detach().norm()),
        "gradients": {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps({case: measured(case) for case in CASES}, indent=1) + "\n")
