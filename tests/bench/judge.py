"""Trains the CIFAR-10 classifier that comes with the package as ``--features cifar10``.

    python -m tests.bench.judge cifar10.h5 --out judge/ [--epochs 20] [--seed 0]

``cifar10.h5``: ``discli encode`` of the 50,000 training images. A tenth is held out by the seed, and never learned
from. ``judge/`` then holds ``cifar10.safetensors`` (float16, for discli/assets), ``cifar10.json`` (the curve, the
seconds, what was used) and ``checkpoint.pt``, from which the same command goes on after an interruption.

The loop, images and learning rates are those of ``discli teacher``. What is other: the network, longer training, a
whitened first layer, convolutions that begin as the identity (airbench, arXiv:2404.00498), and Muon for them.
"""

import argparse
import json
import platform
import resource
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from discli.data.store import Store
from discli.evaluation.features.cifar10 import Cifar10Classifier
from discli.runtime.console import stderr
from discli.runtime.files import write_beside
from discli.training.teacher import Lessons, learn, share_recognised

BATCH = 256
MUON_LR, ADAM_LR, WEIGHT_DECAY = 0.025, 3e-3, 1e-4
_WHITENED_ON, _EPS = 5_000, 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    train(flags.data, flags.out, flags.epochs, flags.seed)


def train(data: Path, out: Path, epochs: int, seed: int) -> None:
    lessons = Lessons(Store(data), seed, batch=BATCH)
    torch.manual_seed(seed)
    network = Cifar10Classifier()
    convolutions = [p for p in network.stages.parameters() if p.ndim == 4]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim < 4]
    start_as_identity(convolutions)
    whiten(network.whiten, lessons.images(lessons.rest[:_WHITENED_ON]))
    network.to(memory_format=torch.channels_last)
    optimizers = [Muon(convolutions, MUON_LR), torch.optim.AdamW(others, ADAM_LR, weight_decay=WEIGHT_DECAY)]
    checkpoint, curve, first, before = out / "checkpoint.pt", [], 0, (0.0, 0.0)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        assert saved["settings"] == [epochs, seed], f"{checkpoint} is of other settings"
        network.load_state_dict(saved["network"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        curve, first, before = saved["curve"], len(saved["curve"]), saved["seconds"]
    began, cpu = time.perf_counter(), processor_seconds()

    def seconds() -> tuple[float, float]:
        return before[0] + time.perf_counter() - began, before[1] + processor_seconds() - cpu

    def after_epoch(epoch: int) -> None:
        curve.append(share_recognised(network, lessons))
        stderr.print(f"epoch {epoch + 1}: {curve[-1]:.2%} recognised, {seconds()[1]:.0f} s of processor time")
        state: dict[str, Any] = {
            "settings": [epochs, seed],
            "network": network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "curve": curve,
            "seconds": seconds(),
        }
        write_beside(checkpoint, lambda temporary: torch.save(state, temporary))

    learn(network, lessons, epochs, optimizers, first=first, after_epoch=after_epoch)
    halves = {
        name: tensor.half().contiguous() for name, tensor in network.state_dict().items() if tensor.is_floating_point()
    }
    network.load_state_dict({name: tensor.float() for name, tensor in halves.items()}, strict=False)  # as it is read
    accuracy = share_recognised(network, lessons)  # of the weights that are written
    held_out = np.sort(lessons.held_out)
    about = {
        "format": "discli-cifar10-classifier/1",
        "accuracy": repr(accuracy),
        "held_out": f"the first {len(held_out):,} of discli.runtime.rng.permutation({seed}, 0, 50000)",
    }
    write_beside(out / "cifar10.safetensors", lambda temporary: save_file(halves, temporary, metadata=about))
    record = {
        "accuracy": accuracy,
        "held_out": len(held_out),
        "curve": curve,
        "epochs": epochs,
        "seed": seed,
        "batch": BATCH,
        "seconds": round(seconds()[0]),
        "processor_seconds": round(seconds()[1]),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": date.today().isoformat(),
    }
    (out / "cifar10.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    stderr.print(f"{accuracy:.2%} of {len(held_out):,} images held out are recognised.")


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix nearest to the momentum, for convolutions as (out, in * 9) matrices.

    Muon (https://kellerjordan.github.io/posts/muon/) as airbench has it: a batch norm follows, so that a filter's
    scale is free and is kept at a norm of sqrt(out).
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                held.mul_(group["momentum"]).add_(p.grad)
                p.mul_(len(p) ** 0.5 / p.norm())
                update = orthogonal(p.grad.add(held, alpha=group["momentum"]).flatten(1))
                p.add_(update.view(p.shape), alpha=-group["lr"])


def orthogonal(matrix: Tensor, steps: int = 4) -> Tensor:
    """About U V^T of the matrix's U S V^T, by Newton and Schulz' iteration with Jordan's coefficients."""
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if len(x) > x.shape[1] else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


@torch.no_grad()
def start_as_identity(convolutions: list[nn.Parameter]) -> None:
    """Each stage's first one; those beside the identity need it not."""
    for weight in convolutions:
        if len(weight) != weight.shape[1]:
            nn.init.dirac_(weight[: weight.shape[1]])


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: Tensor) -> None:
    """Its filters become the directions of 2 x 2 patches, scaled to a variance of 1, and their opposites."""
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + _EPS).sqrt()).T.reshape(-1, *conv.weight.shape[1:]).float()
    conv.weight.copy_(torch.cat([filters, -filters]))
    assert conv.bias is not None
    conv.bias.zero_()


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def processor() -> str:
    """With its widest vectors: ``AMD EPYC, AVX2``; there are several of that name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    main()
