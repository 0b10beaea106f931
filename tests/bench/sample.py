"""``python -m tests.bench.sample [RUN] [--json]``: sampling beside bare model calls and beside the authors' way.

Without RUN the network has random weights, which cost the same: by default the quickstart's, on a GPU
``--recipe dis-l-2`` or the like. One interleaved run, medians of ``--rounds``:

- *bare*: the same network calls as ``discli sample`` makes (same batch, both halves of guidance), with
  nothing between them; the overhead is the time of ``discli sample`` over theirs;
- *authors*: batch 8, float32, 250 ancestral steps, eager, one batch after the other, each decoded and
  written before the next begins;
- *equal steps*: ``discli sample`` with the same sampler and steps; and with DPM-Solver++ at 20 and 50.

``--steps`` shortens the 250 where they would take too long; all figures then are for that number.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from discli.data.autoencoders import load_codec
from discli.data.autoencoders.rgb import RgbIdentity
from discli.model import DiS
from discli.recipe import DataContract, load_recipe
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.sampling.generate import sample_batch
from discli.sampling.load import LoadedModel, load
from discli.sampling.plan import SamplingPlan, draw_classes, plan_sampling
from discli.sampling.sample import sample
from discli.sampling.writers import PngFolder

AUTHORS_BATCH = 8


def random_model(name: str, device: torch.device) -> LoadedModel:
    """A shipped recipe's network with random weights, on pixels whatever its codec."""
    recipe = load_recipe(name, ["data.codec=rgb"])
    contract = DataContract(
        discli_version="bench",
        codec=RgbIdentity(),
        resolution=recipe.data.resolution,
        crop="adm",
        dtype="uint8",
        flip_stored=False,
        num_samples=0,
        class_names=tuple(map(str, range(recipe.model.num_classes))),
        source="",
        source_sha256="",
    )
    torch.manual_seed(0)
    network = DiS.from_recipe(recipe).to(device).eval().requires_grad_(False)
    return LoadedModel(network, recipe, contract, None, Path("random"), 0, device)


def authors(plan: SamplingPlan, n: int, folder: Path) -> None:
    """Batches of 8, one after the other, nothing beside anything."""
    trained = plan.model
    output, codec = PngFolder(folder), load_codec(trained.contract.codec, trained.device)
    for start in range(0, n, AUTHORS_BATCH):
        members = torch.arange(start, start + AUTHORS_BATCH, device=trained.device)
        labels = draw_classes(members, (), trained.recipe.model.num_classes, 0)
        *_, x0 = sample_batch(trained.network, trained.recipe, plan.settings, members, labels, 0)
        output.write(members.tolist(), codec.decode(x0).cpu())


@torch.no_grad()
def bare(plan: SamplingPlan, n: int) -> None:
    """As many network calls of the same size as ``discli sample`` makes for n images."""
    recipe, settings, device = plan.model.recipe, plan.settings, plan.model.device
    network, _ = plan.networks()
    rows = plan.model_batch * (1 if settings.cfg_scale == 1.0 else 2)
    x = torch.randn(rows, *recipe.input_shape, device=device)
    y = torch.zeros(rows, dtype=torch.int64, device=device) if recipe.model.num_classes else None
    for _ in range(-(-n // plan.model_batch) * settings.steps):
        network(x, torch.full((rows,), 500, device=device), y)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sample", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="a trained run instead of random weights")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--fast-steps", type=int, nargs="*", default=[20, 50])
    parser.add_argument("--cfg-scale", type=float, default=2.0)
    parser.add_argument("--compile", action="store_true", help="for ours, not for the authors' way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = pick_device(args.device)
    trained = load(args.run, args.device) if args.run else random_model(args.recipe, device)
    scale = args.cfg_scale if trained.recipe.model.num_classes else 1.0
    same = {"sampler": "ddpm", "steps": args.steps, "cfg_scale": scale, "compile": args.compile}
    ours = plan_sampling(trained, same)
    args.n = len(ours.groups(args.n)) * ours.model_batch  # or "authors" would make fewer images than ours
    theirs = plan_sampling(trained, same | {"compile": False, "precision": "fp32"})

    with tempfile.TemporaryDirectory() as scratch:
        number = iter(range(10**6))

        def sampled(**settings: object) -> None:
            sample(trained, args.n, out=Path(scratch) / str(next(number)), **settings)

        contenders: dict[str, Callable[[], object]] = {
            "bare": lambda: bare(ours, args.n),
            "equal steps": lambda: sampled(**same),
            "authors": lambda: authors(theirs, args.n, Path(scratch) / str(next(number))),
        }
        for steps in args.fast_steps:
            settings = same | {"sampler": "dpm-solver++", "steps": steps}
            contenders[f"dpm-solver++ {steps}"] = lambda settings=settings: sampled(**settings)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        bare(plan_sampling(trained, same | {"steps": 2}), 1)  # compile and warm up
        for _ in range(args.rounds):
            for name, run in contenders.items():
                times[name].append(seconds(run, device))

    medians = {name: statistics.median(some) for name, some in times.items()}
    overheads = [own / alone for own, alone in zip(times["equal steps"], times["bare"], strict=True)]
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "recipe": trained.recipe.name,
        "n": args.n,
        "steps": args.steps,
        "model_batch": ours.model_batch,
        "precision": ours.settings.precision,
        "overhead": statistics.median(overheads),
        "images_per_second": {name: args.n / some for name, some in medians.items() if name != "bare"},
        "times_the_authors": {name: medians["authors"] / some for name, some in medians.items() if name != "bare"},
    }
    if args.json:
        json.dump(result, sys.stdout, indent=1)
        return
    for key, value in result.items():
        shown = {name: round(number, 2) for name, number in value.items()} if isinstance(value, dict) else value
        print(f"{key}: {shown:.3f}" if isinstance(shown, float) else f"{key}: {shown}")


if __name__ == "__main__":
    try:
        main()
    except DiscliError as error:
        raise SystemExit(str(error)) from None
