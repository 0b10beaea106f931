"""Images of a run in progress, at `discli.runs.layout.RunFolder.preview`."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from discli.data.autoencoders import Codec
from discli.data.contact_sheet import contact_sheet, save_image
from discli.model import load_network
from discli.recipe import Recipe
from discli.recipe.sample import SampleSpec
from discli.sampling.generate import sample_batch
from discli.sampling.load import CPU_MODEL_BATCH, LARGEST_MODEL_BATCH, as_sampled
from discli.sampling.plan import draw_classes
from discli.training.timed_step import PREVIEW_STEPS


def draw_preview(weights: dict[str, Tensor], recipe: Recipe, codec: Codec, device: torch.device, path: Path) -> None:
    """A contact sheet of ``train.preview_count`` samples from ``weights``, at ``path``."""
    steps = min(recipe.sample.steps, PREVIEW_STEPS)
    if steps < recipe.sample.steps and recipe.sample.timestep_spacing == "ddim":  # of so few there may be no stride
        recipe = recipe.model_copy(update={"sample": recipe.sample.model_copy(update={"timestep_spacing": "linspace"})})
    images = list(draw_samples(weights, recipe, codec, device, recipe.train.preview_count, steps))
    path.parent.mkdir(exist_ok=True)
    save_image(contact_sheet(torch.cat(images)), path)


def draw_samples(
    weights: dict[str, Tensor], recipe: Recipe, codec: Codec, device: torch.device, count: int, steps: int
) -> Iterator[Tensor]:
    """(b, 3, H, W) uint8 on the CPU, ``count`` in all, always of the same noise and classes, by ``seed.noise``.

    Sampled by a network of its own, so that nothing here waits for other processes.
    """
    network = load_network(recipe, weights).to(device).eval().requires_grad_(False)

    settings = recipe.sample.model_copy(update={"steps": steps, "compile": False})
    if settings.guidance.name == "autoguidance":  # the weaker network is for samples
        settings = settings.model_copy(update={"cfg_scale": 1.0})
    call, seed = as_sampled(network, device, settings), recipe.train.seed.noise
    for members in torch.arange(count, device=device).split(_together(settings, device)):
        labels = draw_classes(members, (), recipe.model.num_classes, seed)
        *_, x0 = sample_batch(call, recipe, settings, members, labels, seed)
        yield codec.decode(x0).cpu()


def _together(settings: SampleSpec, device: torch.device) -> int:
    """Images a call. Trying what fits, as `discli.sampling.load` does, would upset the training around it."""
    if settings.model_batch != "auto":
        return settings.model_batch
    return CPU_MODEL_BATCH if device.type == "cpu" else LARGEST_MODEL_BATCH
