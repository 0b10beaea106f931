"""Pictures of a run in progress: ``runs/NAME/previews/<step>.png``."""

from pathlib import Path

import torch
from torch import Tensor

from discli.codecs import load_codec
from discli.console import stderr
from discli.errors import DiscliError
from discli.model import DiS
from discli.recipe import DataContract, Recipe
from discli.report.sheet import contact_sheet, save_picture
from discli.sample import denoise, draw_classes

# Enough to see by; a recipe's 250 steps would hold up the training.
_MOST_STEPS = 50


def draw_preview(
    weights: dict[str, Tensor], recipe: Recipe, contract: DataContract, device: torch.device, run: Path, step: int
) -> None:
    """Sample from ``weights`` with the recipe's seed, so that all previews of a run share noise and classes.

    A codec that cannot be had costs the preview, not the run.
    """
    try:
        codec = load_codec(contract.codec, device)
    except DiscliError as error:
        stderr.print(f"[yellow]No preview: {error}[/yellow]")
        return
    with torch.device("meta"):
        network = DiS.from_recipe(recipe)
    network.load_state_dict(weights, assign=True)
    network.to(device).eval().requires_grad_(False)

    settings = recipe.sample.model_copy(update={"steps": min(recipe.sample.steps, _MOST_STEPS)})
    pictures = []
    for members in torch.arange(recipe.train.preview_count, device=device).split(settings.model_batch):
        labels = draw_classes(members, (), recipe.model.num_classes, recipe.train.seed)
        *_, x0 = denoise(network, recipe, settings, members, labels, recipe.train.seed)
        pictures.append(codec.decode(x0).cpu())
    (run / "previews").mkdir(exist_ok=True)
    save_picture(contact_sheet(torch.cat(pictures)), run / "previews" / f"{step:08d}.png")
