"""``discli import``: checkpoints of the DiS authors' code in, a run that discli can sample from out."""

import argparse
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from discli import __version__
from discli.data.autoencoders.rgb import RgbIdentity
from discli.data.autoencoders.vae import VaeIdentity
from discli.model import load_network
from discli.model.authors import AuthorsModel, convert, read_shapes
from discli.recipe import DataContract, Recipe, parse_recipe
from discli.recipe.size import Size
from discli.runs.checkpoint import write_checkpoint
from discli.runs.description import RunDescription
from discli.runs.layout import EMA
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.signals import hold_ctrl_c

# Both are what the authors' code samples with; a checkpoint does not say.
_VAE = "stabilityai/sd-vae-ft-ema"
_SD_SCALING_FACTOR = 0.18215
# How torch names what a pickle would call.
_CODE = re.compile(r"GLOBAL ([\w.]+)")


def import_checkpoint(checkpoint: str | Path, out: str | Path | None = None) -> Path:
    """Write ``out`` (default ``runs/<file name>``), a run whose only checkpoint holds the given weights.

    Sizes are read off the weights' shapes; averaged weights are taken where the file has them.
    Nothing in the file is executed. Raises DiscliError for anything that is not a DiS of the authors.
    """
    checkpoint = Path(checkpoint)
    state = _read(checkpoint)
    shape = read_shapes(state)
    recipe, contract = _recipe_for(shape, checkpoint.stem), _contract_for(shape, checkpoint)
    weights = convert(state)
    try:
        load_network(recipe, weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DiscliError(
            f"{checkpoint}: weights do not fit a DiS: {reason}",
            "Give a checkpoint of the authors' code as they published it; a changed network has no recipe here.",
        ) from None

    out = Path(out or Path("runs") / checkpoint.stem)
    if out.exists() and any(out.iterdir()):
        raise DiscliError(f"{out} is not empty.", "Give another --out.")
    description = RunDescription.of(recipe, contract, data_file=None)
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, 0, {EMA: weights}, {"from_authors": checkpoint.name}, description.metadata)
    description.write(out)
    count = sum(tensor.numel() for tensor in weights.values())
    stderr.print(f"{count:,} parameters, {shape.depth} blocks of width {shape.embed_dim}: discli sample {out}")
    return out


@hold_ctrl_c()
def _read(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a .pt or .pth file, else the plain ones, with DDP's prefix taken off."""
    if not path.is_file():
        raise DiscliError(f"No file at {path}.", "Give the .pt file that the authors' trainer wrote.")
    try:
        # Their trainer stores its command line beside the weights; a Namespace runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words, many lines of them, end in how to load it all the same
        if asked := _CODE.search(str(error)):
            raise DiscliError(
                f"{path} asks for code to be run ({asked[1]}), so it is not loaded.",
                "Ask whoever made it for the weights alone: torch.save(model.state_dict(), FILE).",
            ) from None
        raise DiscliError(
            f"{path} is corrupt, or PyTorch did not write it.", "Give the .pt file that the authors' trainer wrote."
        ) from None
    for key in ("ema", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DiscliError(f"{path} holds no weights.", "Give the .pt file that the authors' trainer wrote.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _recipe_for(shape: AuthorsModel, name: str) -> Recipe:
    latent = shape.in_channels == 4
    return parse_recipe(
        {
            "name": "".join(c if c.isalnum() or c in "._+-" else "-" for c in name) or "authors",
            "model": {
                "embed_dim": shape.embed_dim,
                "depth": shape.depth,
                "patch_size": shape.patch_size,
                "num_classes": shape.num_classes,
                "d_state": shape.d_state,
                "d_conv": shape.d_conv,
                "backward_dt_init": "authors",
            },
            "data": {
                "codec": {"name": "vae", "vae": _VAE} if latent else "rgb",
                "resolution": shape.input_size.height * (8 if latent else 1),
            },
            "diffusion": {"objective": {"name": "eps", "learn_sigma": shape.out_channels == 2 * shape.in_channels}},
            "train": {"steps": 1},
            "sample": {"cfg_scale": 1.5 if shape.num_classes else 1.0, "clip_denoised": not latent},
        },
        name,
    )


def _contract_for(shape: AuthorsModel, checkpoint: Path) -> DataContract:
    latent = shape.in_channels == 4
    codec = (
        VaeIdentity(vae=_VAE, kind="AutoencoderKL", weights_sha256="", scaling_factor=_SD_SCALING_FACTOR)
        if latent
        else RgbIdentity()
    )
    return DataContract(
        discli_version=__version__,
        codec=codec,
        resolution=Size.square(shape.input_size.height * (8 if latent else 1)),
        crop="adm",
        dtype="float32" if latent else "uint8",
        flip_stored=False,
        num_samples=0,
        class_names=tuple(str(number) for number in range(shape.num_classes)),
        source=str(checkpoint),
        source_sha256="",
    )
