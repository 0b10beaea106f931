"""``python -m tests.bench.network [NAME ...]``: what each setting of the network costs in a step on one core.

Forward and backward pass of 7 blocks of width 128 on 32 x 32 pixels in patches of 4, batches of 64: CPU time of
one thread, all networks by turns in one process, the least of some rounds. Without names: all of them.
"""

import argparse
import time
from typing import Any

import torch

from discli.model import DiS
from discli.recipe import parse_recipe

NETWORKS: dict[str, dict[str, Any]] = {
    "grid_conv before": {"grid_conv": "depthwise"},
    "grid_conv instead": {"grid_conv": {"name": "depthwise", "place": "instead"}},
    "patch_embed 32": {"patch_embed": "overlapping"},
    "patch_embed 16": {"patch_embed": {"name": "overlapping", "stem": 16}},
    "head_conv 32": {"head_conv": "residual"},
    "head_conv 16": {"head_conv": {"name": "residual", "width": 16}},
    "zigzag": {"scan_order": "zigzag"},
    "four": {"scan_order": "four"},
    "four-shared": {"scan_order": "four-shared"},
    "four-split": {"scan_order": "four-split"},
    "all": {
        "grid_conv": "depthwise", "patch_embed": "overlapping", "head_conv": "residual", "scan_order": "four-split",
    },
    "3 mamba, 1 attention": {"mixer": ["mamba", "mamba", "mamba", "attention"]},
    "attention, 5 blocks": {"mixer": "attention", "depth": 5},
    "dit, 5 blocks": {"mixer": "dit", "depth": 5},
}  # fmt: skip


def network(**settings: Any) -> DiS:
    model = {"embed_dim": 128, "depth": 7, "patch_size": 4, "num_classes": 10, "drop_path_rate": 0.0, **settings}
    tree = {"name": "bench", "model": model, "data": {"resolution": 32}, "train": {"steps": 1}}
    return DiS.from_recipe(parse_recipe(tree, "bench"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks = {name: network(**NETWORKS[name]) for name in given.names or NETWORKS}
    networks = {"plain": network(), **networks}
    x, t, y = torch.randn(64, 3, 32, 32), torch.randint(1000, (64,)), torch.randint(10, (64,))
    least = dict.fromkeys(networks, float("inf"))
    for number in range(given.rounds + 1):
        for name, model in networks.items():
            started = time.process_time()
            model(x, t, y).square().mean().backward()
            taken = time.process_time() - started
            model.zero_grad()
            if number:  # the first one compiles
                least[name] = min(least[name], taken)
    for name, taken in least.items():
        parameters = sum(parameter.numel() for parameter in networks[name].parameters())
        print(f"{name:22} {1e3 * taken:5.0f} ms {taken / least['plain'] - 1:+7.1%} {parameters:12,} parameters")


if __name__ == "__main__":
    main()
