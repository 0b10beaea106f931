"""How long a step of training takes on this machine, found by trying it: seconds, on a copy.

The real network, loss, optimizer and average, on noise in the place of images, so that no data is needed.
Nothing of a run is touched, and torch's random state is as it was. Of a deep network five blocks are tried,
all blocks being alike; the rest is by count of operations.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from threading import Timer

import torch

from discli.cost.flops import forward_flops, training_flops
from discli.cost.hardware import Hardware
from discli.diffusion import DiffusionLoss
from discli.model import DiS, empty_network
from discli.model.mixers import choose_scan
from discli.recipe import Recipe
from discli.runtime.console import format_seconds, stderr
from discli.runtime.devices import settle_precision
from discli.runtime.facts import Facts
from discli.runtime.rng import RngStream, normal, uniform
from discli.scan.cpu import backend as cpu
from discli.training.cores import processes_for
from discli.training.ema import build_ema
from discli.training.optimizers import build_optimizer

A_DAY = 24 * 3600.0
PREVIEW_STEPS = 50  # at most: enough to see by; a recipe's 250 would hold up the training

_BLOCKS = 5  # odd, as depths are: two long skips are among them
_ENOUGH = 0.4  # seconds of work that tell the time
_REPEATS, _LONGEST = 3, 3.0  # passes, unless they take so many seconds
_COMPILING = 5.0  # seconds, beyond what it takes to load compiled kernels


@dataclass(frozen=True)
class Trial:
    """Seconds: of one image in training and forward alone, and of one update of weights and average."""

    per_image: float  # forward and backward, with what further losses and routing add or save
    per_forward: float
    per_update: float
    images: int  # that were tried at once
    processes: int = 1  # that share a batch, of which one was tried

    def per_step(self, batch_size: int) -> float:
        """Of a step with so many images in all."""
        return -(-batch_size // self.processes) * self.per_image + self.per_update

    def preview(self, recipe: Recipe) -> float:
        """Of drawing one, the autoencoder left out."""
        settings = recipe.sample
        calls = min(settings.steps, PREVIEW_STEPS)
        calls *= (2 if settings.sampler.name == "heun" else 1) * (2 if settings.cfg_scale != 1.0 else 1)
        return recipe.train.preview_count * calls * self.per_forward

    def whole(self, recipe: Recipe, steps: int | None = None) -> float:
        """Of ``steps`` of the recipe, by default all of them, and of their previews; scores are not counted."""
        spec = recipe.train
        steps = spec.steps if steps is None else steps
        previews = -(-steps // spec.preview_every) if spec.preview_every else 0
        return steps * self.per_step(spec.batch_size) + previews * self.preview(recipe)


def try_here(recipe: Recipe, device: torch.device) -> Trial:
    """`try_step` as ``discli train`` would begin the recipe here: on a CPU, of one of several processes."""
    processes = processes_for(recipe, None, str(device), None)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // processes))
    try:
        return try_step(recipe, device, processes)
    finally:
        torch.set_num_threads(threads)


def try_step(recipe: Recipe, device: torch.device, processes: int = 1) -> Trial:
    """Takes a few seconds; the first time on a CPU half a minute more: kernels compile, which is not timed."""
    spec, model = recipe.train, recipe.model
    thin = recipe.model_copy(update={"model": model.model_copy(update={"depth": min(model.depth, _BLOCKS)})})
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[]):
        network = DiS.from_recipe(thin).to(device)
    optimizer, ema, loss = build_optimizer(network, spec), build_ema(spec.ema, network), DiffusionLoss(recipe.diffusion)
    if processes > 1 and spec.parallel == "ddp":
        optimizer.share_work(0, processes, exchange=lambda parts: None)
    shape = recipe.input_shape
    in_bf16 = settle_precision(spec.precision, device).name == "bf16"

    def now() -> float:
        if on_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def step(images: int) -> tuple[float, float]:
        """Seconds of the passes, and of the update."""
        started = now()
        slots = torch.arange(images, device=device)
        x0 = normal(0, RngStream.LATENT, 0, slots, shape)
        t = loss.timesteps(uniform(0, RngStream.TIMESTEP, 0, slots))
        noise = normal(0, RngStream.NOISE, 0, slots, shape)
        x_t, t_model = loss.noisy(x0, t, noise)
        y = slots % model.num_classes if model.num_classes else None
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            out = network(x_t, t_model, y).float()
        loss(out, x0, x_t, t, noise).loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), spec.grad_clip)
        passed = now()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(network, 1)
        return passed - started, now() - passed

    if not on_cuda and choose_scan(model, device).name == "cpu" and cpu.HAS_NUMBA:
        _compiling(lambda: import_module("discli.scan.cpu.kernels"))
    if on_cuda:
        _compiling(lambda: step(1))
    step(1)
    most = spec.micro_batch or max(1, spec.batch_size // processes)
    images, times, began = 1, [step(1)], now()
    while True:
        # The quickest counts: whatever else the machine does makes a pass slower, never faster.
        passes, update = min(times)
        if passes < _ENOUGH and images < most:
            more = min(most, 8 * images, max(2 * images, round(images * _ENOUGH / passes)))
            try:
                step(more)  # new sizes of memory, and on a GPU new kernels: not timed
                images, times = more, [step(more)]
            except torch.OutOfMemoryError:
                most = images
        elif len(times) >= _REPEATS or now() - began > _LONGEST:
            break
        else:
            times.append(step(images))

    count = sum(p.numel() for p in network.parameters())
    larger = sum(p.numel() for p in empty_network(recipe).parameters()) / count
    # What is tried has no routing and no further losses; a forward pass is a third of it.
    forward = passes / images / 3
    tried, all_blocks = (sum(forward_flops(each).values()) for each in (thin, recipe))
    per_image = forward * training_flops(recipe) / tried
    return Trial(per_image, forward * all_blocks / tried, larger * update, images, processes)


def _compiling(what: Callable[[], object]) -> None:
    """What may have to compile kernels, or finds them compiled at once; whoever waits is told why."""
    told = Timer(
        _COMPILING, stderr.print, ["Kernels are being compiled for this machine: once, in some seconds; then kept."]
    )
    told.daemon = True
    told.start()
    try:
        what()
    finally:
        told.cancel()


def describe_length(steps: int, batch_size: int, num_images: int | None = None) -> str:
    """2,000 steps of 64: 128,000 images, 71 epochs"""
    seen = steps * batch_size
    text = f"{steps:,} steps of {batch_size:,}: {seen:,} images"
    if not num_images:
        return text
    epochs = seen / num_images
    return f"{text}, {f'{epochs:,.0f}' if epochs >= 10 else f'{epochs:.2g}'} epochs of {num_images:,}"


def describe_time(trial: Trial, recipe: Recipe, steps: int | None = None) -> str:
    """About 5 min on this machine: 0.14 s a step, previews included"""
    seconds = trial.whole(recipe, steps)
    per_step = trial.per_step(recipe.train.batch_size)
    previews = ", with its previews" if recipe.train.preview_every else ""
    each = f"{per_step:.2g} s" if per_step < 10 else format_seconds(per_step)
    return f"about {format_seconds(seconds)} on this machine{previews}: {each} a step, by a trial"


def time_here(recipe: Recipe, machine: Hardware) -> Facts:
    """How long training takes on this machine, by a trial of some seconds; nothing of a machine elsewhere."""
    if machine.device is None:
        return Facts([], {"here": {"seconds": None}})
    trial = try_here(recipe, machine.device)
    record = {"seconds": trial.whole(recipe), "seconds_per_step": trial.per_step(recipe.train.batch_size)}
    return Facts([("time here", describe_time(trial, recipe))], {"here": record})
