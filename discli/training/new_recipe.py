"""``discli recipe new``: a preset and a data file -> a recipe that fits both, with every choice beside it."""

import tomllib
from pathlib import Path
from typing import Any

from discli.data.store import open_store
from discli.recipe import DataContract, check_fits, parse_recipe
from discli.recipe.commented import commented_toml
from discli.recipe.data import LARGEST_RGB, DataSpec
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_text

# The longest sequence in the paper: ImageNet-512, 64 latent cells on a side in patches of 2 (arXiv:2402.05608).
_MOST_PATCHES = 1024

_HOW_TO_CHANGE = (
    "#key = value: a setting at its default. a | b: its choices, with settings of their own in brackets.",
    'skip = "add" is short for skip = { name = "add" }; settings of its own would stand beside the name.',
    "For completion in an editor with Taplo: discli recipe schema --out recipe.schema.json, and as first line here",
    "#:schema recipe.schema.json",
)


def new_recipe(
    name: str,
    preset: str,
    *,
    data: Path | None = None,
    resolution: int | None = None,
    codec: str | None = None,
    num_classes: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``out``, by default ``name``.toml, and return it.

    ``data``, a file of ``discli encode``, decides codec, resolution, classes and flips; without one,
    ``resolution``, ``codec`` (by default as encode chooses) and ``num_classes`` do. Raises DiscliError
    where both or neither are given, and for a file that is there already.
    """
    out = out or Path(f"{name}.toml")
    if out.exists() and not overwrite:
        raise DiscliError(f"{out} is there already.", "Give another --out, or --overwrite to replace it.")
    by_flags = {"--res": resolution, "--codec": codec, "--num-classes": num_classes}
    given = [flag for flag, value in by_flags.items() if value is not None]
    contract = None
    if data is not None:
        if given:
            raise DiscliError(f"{given[0]}: the file of --data decides that.", f"Leave out {given[0]}, or --data.")
        contract = open_store(data).contract
        inputs: dict[str, Any] = {"file": str(data), **_inputs_of(contract)}
        num_classes, about = contract.num_classes, _describe(contract)
        train = f"discli train {out}"
    elif resolution is not None:
        codec = codec or ("rgb" if resolution <= LARGEST_RGB else "vae")
        inputs, num_classes = {"resolution": resolution, "codec": codec}, num_classes or 0
        about = f"discli encode IMAGES --res {resolution} --codec {codec} --out {name}.h5"
        train = f"discli train {out} --data {name}.h5"
    else:
        raise DiscliError("A recipe must know its data.", "Give --data FILE.h5, or --res (--codec, --num-classes).")

    opening = [f"{name}: {preset} on {data or 'images still to be encoded'}.", ""]
    opening += [f"Data: {about}", f"Command: {train}", "", *_HOW_TO_CHANGE]
    text = commented_toml(_settings(name, preset, inputs, num_classes), opening)
    recipe = parse_recipe(tomllib.loads(text), str(out))
    if contract is not None:
        check_fits(recipe, contract, str(data))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return out


def _settings(name: str, preset: str, inputs: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """What is worth choosing in a first run: the recipes' usual settings, and sampling that is quick to look at."""
    spec = DataSpec.model_validate(inputs)
    if spec.resolution % spec.codec.downsample:
        multiple = f"a multiple of {spec.codec.downsample}"
        raise DiscliError(
            f"--res {spec.resolution}: latents of it need {multiple}.", f"Give {multiple}, or --codec rgb."
        )
    return {
        "name": name,
        "model": {
            "preset": preset,
            "patch_size": _patch_size(spec.resolution // spec.codec.downsample),
            "num_classes": num_classes,
        },
        "data": inputs,
        "train": {
            "steps": 100_000,
            "batch_size": 128,
            "lr": 1e-4,
            "lr_schedule": {"name": "cosine", "warmup_steps": 2_000},
            "preview_every": 2_500,
            "checkpoint_every": 2_500,
        },
        "sample": {
            "sampler": "dpm-solver++",
            "steps": 25,
            "cfg_scale": 1.5 if num_classes else 1.0,
            "clip_denoised": spec.codec.name == "rgb",
        },
    }


def _patch_size(input_size: int) -> int:
    """2, as in all of the paper's models, where that divides and is not too many patches; else the nearest that is."""
    divisors = [size for size in (2, 1, *range(3, input_size + 1)) if input_size % size == 0]
    return next((size for size in divisors if (input_size // size) ** 2 <= _MOST_PATCHES), 1)


def _inputs_of(contract: DataContract) -> dict[str, Any]:
    codec: dict[str, Any] = {"name": contract.codec.name}
    if contract.codec.name == "vae":
        codec |= {"channels": contract.codec.channels, "downsample": contract.codec.downsample}
    # Pixels are mirrored while training; latents only if encode stored the mirrored images' too.
    flip = contract.codec.name == "rgb" or contract.flip_stored
    return {"resolution": contract.resolution, "codec": codec, "horizontal_flip": flip}


def _describe(contract: DataContract) -> str:
    kind = "pixels" if contract.codec.name == "rgb" else f"latents of {contract.codec.vae}"
    classes = f"{contract.num_classes:,} classes" if contract.num_classes else "no labels"
    return f"{contract.num_samples:,} images of {contract.resolution} px, {kind}, {classes}"
