"""What losses on block outputs and Muon cost a training step, and what routing saves of it.

CPU time of one thread, in turn, the best of several rounds.

    OMP_NUM_THREADS=1 python -m tests.bench.accelerators

Width 128, 7 blocks, patches of 4 px of 32 px images, batches of 64; features of 8 x 8 x 112, as EfficientNet-Lite0's.
"""

import argparse
import time

import torch

from discli.diffusion import DiffusionLoss
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.contract import FeatureGrid
from discli.training.auxiliary import Auxiliary
from discli.training.averaged import Drawn
from discli.training.ema import ConstantEma
from discli.training.engine import Engine
from discli.training.optimizers import build_optimizer
from discli.training.routing import draw_route
from tests.data.files import contract

PATCH = 4
GRID = FeatureGrid(name="net", network="noise", weights_sha256="0", input_size=128, side=8, channels=112)


def recipe(**train):
    tree = {
        "name": "bench",
        "model": {
            "embed_dim": 128, "depth": 7, "patch_size": PATCH, "num_classes": 10, "drop_path_rate": 0.0,
            "scan_order": "zigzag",
        },
        "data": {"resolution": 32},
        "diffusion": {"objective": "flow", "weighting": "uniform"},
        "sample": {"sampler": "heun"},
        "train": {"steps": 1000, "tracker": "none", **train},
    }  # fmt: skip
    return parse_recipe(tree, "bench")


class Contender:
    def __init__(self, chosen, images: int, folder: str) -> None:
        self.recipe = chosen
        self.engine = Engine(chosen.train, folder, torch.device("cpu"))
        torch.manual_seed(0)
        self.network, self.loss = DiS.from_recipe(chosen), DiffusionLoss(chosen.diffusion)
        self.auxiliary = Auxiliary(chosen, contract(grids=(GRID,)), self.network, self.engine)
        self.auxiliary.learn_from(chosen, ConstantEma(self.network, 0.9999).averages["ema"], self.loss)
        self.optimizer = build_optimizer(self.network, chosen.train)
        self.x0, self.noise = torch.randn(2, images, 3, 32, 32).unbind()
        self.update = float("inf")
        self.y, self.t = torch.arange(images) % 10, self.loss.timesteps(torch.rand(images))
        self.features = {name: torch.randn(images, 8, 8, 112).half() for name in self.auxiliary.features}

    def step(self) -> float:
        """Seconds of the thread's CPU time."""
        started = time.thread_time()
        x_t, t_model = self.loss.noisy(self.x0, self.t, self.noise)
        with self.auxiliary.watching(self.auxiliary.at(0)):
            route = draw_route(self.recipe, 0, 0, torch.arange(len(self.t)))
            out = self.network(x_t, t_model, self.y, None, route)
        losses = self.loss(out, self.x0, x_t, self.t, self.noise).loss
        drawn = Drawn(self.x0, self.noise, self.t, self.y, torch.full((len(self.t),), 0.5))
        further = self.auxiliary(self.auxiliary.at(0), drawn, self.features)
        (losses + self.auxiliary.weighted(further)).mean().backward()
        self.engine.clip(self.network, 1.0)
        self.auxiliary.clip(1.0)
        updated = time.thread_time()
        self.optimizer.step()
        self.update = min(self.update, time.thread_time() - updated)
        self.optimizer.zero_grad(set_to_none=True)
        self.auxiliary.update(1e-4)
        return time.thread_time() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--only", nargs="*", help="rows, beside the one without")
    parser.add_argument("--patch", type=int, default=4, help="px: 4 makes 64 tokens of an image, 2 makes 256")
    given = parser.parse_args()
    global PATCH
    PATCH = given.patch
    torch.set_num_threads(1)
    kinds = {
        "without": recipe(),
        "align, mlp": recipe(align={"features": "net"}),
        "align, conv": recipe(align={"features": "net", "projector": "conv", "spatial_norm": True}),
        "layersync": recipe(layersync={}),
        "dispersive": recipe(dispersive={}),
        "sra": recipe(sra={}),
        "muon": recipe(optimizer="muon"),
        "route": recipe(route={}),
        "route, 1": recipe(route={"outer": 1}),
    }
    contenders = {
        name: Contender(chosen, given.images, "unused")
        for name, chosen in kinds.items()
        if not given.only or name in ("without", *given.only)
    }
    best = dict.fromkeys(contenders, float("inf"))
    for turn in range(given.rounds + 1):
        for name, contender in contenders.items():
            seconds = contender.step()
            if turn:  # the first compiles and allocates
                best[name] = min(best[name], seconds)
    for name, seconds in best.items():
        more = seconds / best["without"] - 1
        update = 1000 * contenders[name].update
        print(
            f"{name:11} {1000 * seconds:7.1f} ms a step of {given.images}, {more:+.1%}; the optimizer {update:.1f} ms"
        )


if __name__ == "__main__":
    main()
