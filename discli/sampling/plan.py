"""From a checkpoint and what was asked of it to images: `draw` settles everything, `latents` makes them.

Image i depends on (seed, i) alone. Its noise comes from a stream of its own, and the network always
runs on whole groups of ``model_batch`` images in which image i has a fixed place, because the last
bits of a matrix product depend on how many rows it has.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.diffusion import trajectory
from discli.diffusion.guidance import Network
from discli.diffusion.schedule import build_schedule
from discli.recipe import Recipe
from discli.recipe.choices import build
from discli.recipe.sample import SampleSpec
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.rng import LARGEST_SEED, RngStream, normal, uniform
from discli.runtime.signals import safe_place
from discli.sampling.load import (
    LoadedModel,
    as_sampled,
    find_model_batch,
    load_model,
    newest_run,
    precision_of,
)
from discli.sampling.settings import parse_classes, settings_for

STRIP_IMAGES, STRIP_MOMENTS = 6, 10


@dataclass(frozen=True)
class Draw:
    """Everything that image i depends on, beside i: `draw` puts one together."""

    trained: LoadedModel
    settings: SampleSpec  # model_batch and precision are settled
    classes: tuple[int, ...]  # taken in turn; empty: at random
    seed: int
    weak: LoadedModel | None = None  # autoguidance's other network

    def labels(self, members: Tensor) -> Tensor | None:
        return draw_classes(members, self.classes, self.trained.recipe.model.num_classes, self.seed)

    def networks(self) -> tuple[Network, Network | None]:
        """The one that samples, and autoguidance's other one."""
        device = self.trained.device
        weak = as_sampled(self.weak.network, device, self.settings) if self.weak is not None else None
        return as_sampled(self.trained.network, device, self.settings), weak

    @property
    def model_batch(self) -> int:
        assert isinstance(self.settings.model_batch, int)
        return self.settings.model_batch

    def groups(self, n: int) -> int:
        """How many groups the first n images make."""
        return -(-n // self.model_batch)


def draw(
    run: LoadedModel | str | Path | None,
    classes: str | Sequence[str | int] = "random",
    seed: int = 0,
    checkpoint_step: int | None = None,
    device: str | None = None,
    **settings: Any,
) -> Draw:
    """All of what `sample` was told, checked and settled. Raises DiscliError for what the model cannot do."""
    if not 0 <= seed <= LARGEST_SEED:
        raise DiscliError(f"seed {seed}: not a seed.", "Give a whole number from 0 to 2^64 - 1.")
    if isinstance(run, LoadedModel):
        trained = run
    else:
        trained = load_model(Path(run) if run else newest_run(Path("runs")), pick_device(device), checkpoint_step)
    recipe = trained.recipe
    chosen = settings_for(recipe, settings)
    wanted = parse_classes(classes, recipe.model.num_classes, trained.contract.class_names)
    weak = None
    if chosen.guidance.name == "autoguidance":
        weak = load_model(Path(chosen.guidance.checkpoint), trained.device)
        check_weak(weak, recipe)
    precision = precision_of(chosen, trained.device)
    batch = find_model_batch(trained, chosen)
    return Draw(trained, chosen.model_copy(update={"precision": precision, "model_batch": batch}), wanted, seed, weak)


def latents(plan: Draw, groups: Iterable[int], n: int) -> Iterator[tuple[list[int], Tensor]]:
    """For each group the numbers of its images below n, and those in model space, (B, C, S, S)."""
    network, weak = plan.networks()
    size, device = plan.model_batch, plan.trained.device
    for group in groups:
        members = torch.arange(group * size, (group + 1) * size, device=device)
        labels = plan.labels(members)
        for state in denoise(network, plan.trained.recipe, plan.settings, members, labels, plan.seed, weak):
            x0 = state
            safe_place()
        kept = min(size, n - group * size)
        yield list(range(group * size, group * size + kept)), x0[:kept]


def images(plan: Draw, n: int) -> Iterator[Tensor]:
    """The first n images, (B, 3, H, W) uint8, batch after batch, for whoever scores without storing them."""
    codec = plan.trained.load_codec()
    for _, x0 in latents(plan, range(plan.groups(n)), n):
        yield codec.decode(x0)


def denoise(
    network: Callable[..., Tensor],
    recipe: Recipe,
    settings: SampleSpec,
    members: Tensor,
    labels: Tensor | None,
    seed: int,
    weak: Callable[..., Tensor] | None = None,
) -> Iterator[Tensor]:
    """Yields (len(members), C, S, S) in model space after every step; ``members`` are image numbers (int64).

    Step k of image i draws from (seed, NOISE, k + 1, i); k = -1 is where it starts.
    """
    shape = (recipe.in_channels, recipe.input_size, recipe.input_size)

    def noise(k: int) -> Tensor:
        return normal(seed, RngStream.NOISE, k + 1, members, shape)

    null_class = recipe.model.num_classes
    return trajectory(network, recipe.diffusion, settings, noise(-1), labels, noise, null_class, weak)


def denoising(plan: Draw, decode: Callable[[Tensor], Tensor]) -> list[tuple[str, Tensor]]:
    """The first few images from noise to image: moments of (STRIP_IMAGES, 3, H, W) uint8, and what to call them.

    Not evenly in steps, most of which are noise alone, but in the angle between noise and signal, the deviation of
    which in images is about a half (sigma_data of arXiv:2206.00364).
    """
    members = torch.arange(plan.model_batch, device=plan.trained.device)
    recipe, settings = plan.trained.recipe, plan.settings
    network, weak = plan.networks()
    shape = (recipe.in_channels, recipe.input_size, recipe.input_size)
    states = [normal(plan.seed, RngStream.NOISE, 0, members[:STRIP_IMAGES], shape)]
    for state in denoise(network, recipe, settings, members, plan.labels(members), plan.seed, weak):
        states.append(state[:STRIP_IMAGES].clone())  # a view would keep the whole group in memory
    schedule = build_schedule(recipe.diffusion)
    levels = [schedule.at(t) for t in build(settings.sampler, schedule, settings.steps).times]
    shown = _spread_over([math.atan2(s, 0.5 * a) for a, s in levels], STRIP_MOMENTS)
    return [(f"step {k}\nnoise {_ratio(*levels[k])}", decode(states[k]).cpu()) for k in shown]


def _spread_over(angles: Sequence[float], most: int) -> list[int]:
    """At most that many of the falling ``angles``: first, last, and those nearest to equal distances between them."""
    if len(angles) <= most:
        return list(range(len(angles)))
    chosen = [0]
    for place in range(1, most):
        wanted = angles[0] + (angles[-1] - angles[0]) * place / (most - 1)
        # None twice, and enough left over for those to come.
        free = range(chosen[-1] + 1, len(angles) - (most - 1 - place))
        chosen.append(min(free, key=lambda k: abs(angles[k] - wanted)))
    return chosen


def _ratio(a: float, s: float) -> str:
    """Noise over signal, as --cfg-interval counts it."""
    ratio = s / a if a > 0 else math.inf
    return "only" if ratio == math.inf else f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}".rstrip("0").rstrip(".")


def draw_classes(members: Tensor, wanted: Sequence[int], num_classes: int, seed: int) -> Tensor | None:
    """The class of every image: in turn from ``wanted``, else at random from (seed, i); None for unconditional."""
    if num_classes == 0:
        return None
    if wanted:
        return torch.tensor(wanted, device=members.device)[members % len(wanted)]
    return (uniform(seed, RngStream.CLASS, 0, members) * num_classes).long().clamp(max=num_classes - 1)


def check_weak(weak: LoadedModel, recipe: Recipe) -> None:
    """Autoguidance subtracts two answers to one question, so the question must be the same."""
    for what in ("in_channels", "input_size", "diffusion"):
        if getattr(weak.recipe, what) != getattr(recipe, what):
            raise DiscliError(
                f"Autoguidance: {weak.checkpoint} has another {what} than the model it is to guide.",
                "Give an earlier checkpoint of the same run, or a smaller model of the same recipe.",
            )
    if weak.recipe.model.num_classes not in (0, recipe.model.num_classes):
        raise DiscliError(f"Autoguidance: {weak.checkpoint} knows other classes.", "Give one of the same data.")
