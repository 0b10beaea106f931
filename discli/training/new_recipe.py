"""``discli recipe new``: a data file and some time -> a recipe that fits both, with every choice beside it."""

import shlex
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from discli.cost.flops import forward_flops
from discli.data.holdout import split
from discli.data.store import Store, open_store
from discli.recipe import DataContract, check_fits, parse_recipe
from discli.recipe.commented import commented_toml
from discli.recipe.config_warnings import fitting_decay, fitting_warmup
from discli.recipe.data import DataSpec, default_codec
from discli.recipe.load import Tree
from discli.recipe.size import Size, given_size
from discli.runtime.console import stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.files import write_text
from discli.training.timed_step import describe_length, describe_time, try_here

# The longest sequence in the paper: ImageNet-512, 64 latent cells on a side in patches of 2 (arXiv:2402.05608).
_MOST_PATCHES = 1024

_MINUTES = {False: 60.0, True: 480.0}  # on a CPU; on a GPU, a night
_MOST_OF_IT = 0.95  # of the time: starting, checkpoints and what else the machine does take the rest
_PREVIEWS, _FOR_PREVIEWS = 8, 0.1  # at the most, and the share of the time that they may take
_HOLDOUT, _FEWEST_HELD_OUT = 0.02, 30  # of the samples; fewer would tell nothing
_FEWEST = 300  # steps, as the small studies: textures


class _Size(NamedTuple):
    seen: int  # images in a run, from which on it is worth its time beside the size before
    images: int  # in the data, below which it would learn them by heart
    batch: int
    lr: float


# ``seen`` and ``images`` are rules of thumb. The rates: the paper's from dis-b on, higher for narrower ones. Batches of
# 32 learn more than batches of 64 from as many images of CIFAR-10 (recipes/ablations/README.md).
_SIZES = {
    "dis-xxs": _Size(0, 0, 32, 2e-3),
    "dis-xs": _Size(200_000, 1_000, 32, 1e-3),
    "dis-s": _Size(4_000_000, 10_000, 128, 3e-4),
    "dis-b": _Size(20_000_000, 100_000, 128, 1e-4),
}

_HOW_TO_CHANGE = (
    "#key = value: a setting at its default. a | b: its choices, with settings of their own in brackets.",
    'skip = "add" is short for skip = { name = "add" }; settings of its own would stand beside the name.',
    "For completion in an editor with Taplo: discli recipe schema --out recipe.schema.json, and as first line here",
    "#:schema recipe.schema.json",
)


def new_recipe(
    name: str,
    preset: str | None = None,
    *,
    minutes: float | None = None,
    data: Path | None = None,
    resolution: int | Size | None = None,
    codec: str | None = None,
    num_classes: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
) -> Path:
    """Write ``out``, by default ``name``.toml, and return it.

    ``data``, a file of ``discli encode``, decides codec, resolution, classes and flips; without one,
    ``resolution``, ``codec`` (by default as encode chooses) and ``num_classes`` do. The run takes about
    ``minutes`` on ``device`` (by default 60 on a CPU and 480 on a GPU), by a trial of the network there;
    without a ``preset`` the largest that sees enough in that time, and not too large for so few images. A
    ``preset`` without ``minutes`` is planned for no machine, with a long run's settings and no trial. Raises
    DiscliError where data and flags both or neither say what the images are, and for a file that is there already.
    """
    out = out or Path(f"{name}.toml")
    if out.exists() and not overwrite:
        raise DiscliError(f"{out} is there already.", "Give another --out, or --overwrite to replace it.")
    out.parent.mkdir(parents=True, exist_ok=True)  # now, for the trial takes a while
    by_flags = {"--res": resolution, "--codec": codec, "--num-classes": num_classes}
    given = [flag for flag, value in by_flags.items() if value is not None]
    contract = images = None
    if data is not None:
        if given:
            raise DiscliError(f"{given[0]}: the file of --data decides that.", f"Leave out {given[0]}, or --data.")
        store = open_store(data)
        contract = store.contract
        held_out = _held_out(store)
        images = len(store) - held_out  # to train on
        inputs: Tree = {"file": str(data), **_inputs_of(contract), **({"holdout": _HOLDOUT} if held_out else {})}
        num_classes, about, sizes = contract.num_classes, _describe(contract), contract.sizes
        train = shlex.join(["discli", "train", str(out)])
    elif resolution is not None:
        resolution = given_size(resolution, "--res")
        sizes = (resolution,)
        codec = codec or default_codec(resolution)
        inputs, num_classes = {"resolution": resolution.plain(), "codec": codec}, num_classes or 0
        about = f"discli encode IMAGES --res {resolution} --codec {codec} --out {name}.h5"
        train = shlex.join(["discli", "train", str(out), "--data", f"{name}.h5"])
    else:
        raise DiscliError("A recipe must know its data.", "Give --data FILE.h5, or --res (--codec, --num-classes).")

    if preset is not None and minutes is None:
        tree, takes = _long_run(name, preset, inputs, num_classes, sizes), ""
    else:
        where = pick_device(device)
        minutes = minutes or _MINUTES[where.type == "cuda"]
        tree, takes = _timed_run(name, preset, inputs, num_classes, sizes, minutes, images, where)
    preset, length = tree["model"]["preset"], _length(tree, images)
    opening = [f"{name}: {preset} on {data or 'images still to be encoded'}.", "", f"Data: {about}"]
    opening += [f"Run: {length}"] + (
        [f"Time: {takes.replace('on this machine', 'where this was written')}"] if takes else []
    )
    opening += [f"Command: {train}", "", *_HOW_TO_CHANGE]
    text = commented_toml(tree, opening)
    recipe = parse_recipe(tomllib.loads(text), str(out))
    if contract is not None:
        check_fits(recipe, contract, str(data))
    write_text(out, text)
    stderr.print(f"{name}: {preset}, {length}{takes and f'; {takes}'}.\nNext: {train}")
    return out


def _held_out(store: Store) -> int:
    """How many samples are kept back: some, where enough are there that nobody misses them."""
    try:
        _, out = split(store, _HOLDOUT, conditional=store.labels is not None)
    except DiscliError:
        return 0
    return len(out) if len(out) >= _FEWEST_HELD_OUT else 0


def _length(tree: Tree, images: int | None) -> str:
    return describe_length(tree["train"]["steps"], tree["train"]["batch_size"], images)


def _timed_run(
    name: str,
    preset: str | None,
    inputs: Tree,
    num_classes: int,
    sizes: Sequence[Size],
    minutes: float,
    images: int | None,
    device: torch.device,
) -> tuple[Tree, str]:
    """Settings of a run of so many minutes on ``device``, and what it takes; by trials, from small to large."""
    stderr.print(f"Timing a step on {device.type} ...")
    best: tuple[Tree, str] | None = None
    seconds = minutes * 60
    for size in [preset] if preset else _SIZES:
        short = partial(_short_run, name, size, inputs, num_classes, sizes)
        recipe = parse_recipe(short(_FEWEST, 1), name)
        if best is not None:
            # By operations alone a larger network may be out of the question: it needs no trial.
            before = parse_recipe(best[0], name)
            work = [sum(forward_flops(r).values()) for r in (before, recipe)]
            hoped = before.train.steps * before.train.batch_size * work[0] / work[1]
            if hoped < _SIZES[size].seen or (images is not None and images < _SIZES[size].images):
                break
        trial = try_here(recipe, device)
        previews = max(1, min(_PREVIEWS, int(_FOR_PREVIEWS * seconds / trial.preview(recipe))))
        left = _MOST_OF_IT * seconds - previews * trial.preview(recipe)
        steps = max(1, _rounded(left / trial.per_step(recipe.train.batch_size)))
        if best is not None and steps * recipe.train.batch_size < _SIZES[size].seen:
            break
        tree = short(steps, previews)
        best = tree, describe_time(trial, parse_recipe(tree, name))
        if steps < _FEWEST:
            stderr.print(
                f"{minutes:g} minutes are {steps:,} steps here: too few to draw anything. Give more --minutes.",
                style="yellow",
            )
    assert best is not None
    return best


def _rounded(number: float) -> int:
    """Down to two digits: a round number is easier to remember than an exact one is of use."""
    whole = max(0, int(number))
    unit = int(10 ** max(0, len(str(whole)) - 2))
    return whole // unit * unit


def _short_run(
    name: str, preset: str, inputs: Tree, num_classes: int, sizes: Sequence[Size], steps: int, previews: int
) -> Tree:
    """What draws something in minutes: `_long_run`'s, and rates, warm-up and average for so few steps."""
    tree = _long_run(name, preset, inputs, num_classes, sizes)
    size = _SIZES.get(preset, _SIZES["dis-b"])
    tree["model"]["drop_path_rate"] = 0.0  # against overfitting, which takes longer
    every = -(-steps // previews)
    tree["train"] |= {
        "steps": steps,
        "batch_size": size.batch,
        "optimizer": "muon",  # as above: with it, small batches learn more still
        "lr": size.lr,
        "lr_schedule": {"name": "cosine", "warmup_steps": fitting_warmup(steps)},
        "ema": {"name": "constant", "decay": fitting_decay(steps)},
        "log_every": max(1, min(25, steps // 20)),
        "preview_every": every,
        "preview_count": 16,
        "checkpoint_every": min(2_500, -(-steps // _PREVIEWS)),
    }
    tree["eval"] = {"n": 1_000}
    return tree


def _long_run(name: str, preset: str, inputs: Tree, num_classes: int, sizes: Sequence[Size]) -> Tree:
    """What is worth choosing in a first run: the recipes' usual settings, and sampling that is quick to look at.

    ``sizes``: of all the images in pixels, the recipe's resolution first.
    """
    spec = DataSpec.model_validate(inputs)
    if not spec.resolution.divides_by(spec.codec.downsample):
        multiple = f"a multiple of {spec.codec.downsample}"
        raise DiscliError(
            f"--res {spec.resolution}: latents of it need {multiple}.", f"Give {multiple}, or --codec rgb."
        )
    cells, small = [size.cut_into(spec.codec.downsample) for size in sizes], preset in ("dis-xxs", "dis-xs")
    # Patches of 4 draw as well in a short run as patches of 2, at a quarter of the work (ablation patch-size-small).
    # Of latents at a sixteenth or less, whose cells are many pixels, each is a token (LightningDiT-XL/1).
    tree: Tree = {
        "name": name,
        "model": {
            "preset": preset,
            "patch_size": _patch_size(
                cells, 1 if spec.codec.downsample > 8 else 4 if small and cells[0].area >= 32**2 else 2
            ),
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
            "cfg_scale": 1.5 if num_classes else 1.0,
            "clip_denoised": spec.codec.is_pixels,
        },
    }
    _learn_fast(tree, spec)
    return tree


def _learn_fast(tree: Tree, spec: DataSpec) -> None:
    """What needs fewer steps than the paper's eps loss, for pixels and latents: a line each, with its reason.

    x0 on the straight path, by the velocity's error: 2.56 against 6.56 for v with the same network and latents
    (arXiv:2605.27102, FID-50K), and what large patches of pixels need (arXiv:2511.13720). Times around the middle:
    29.4 against 34.5 (SiT-B/2, 80 epochs); of pixels, whose neighbours are alike, towards more noise, as JiT has it:
    of the quickstart's digits after 600 steps 95% were recognised with mean 0.4 and 85% with 0 (one seed each).
    Equal weights, for with min-SNR classes are learned last (recipes/quickstart.toml).
    """
    pixels = spec.codec.is_pixels
    tree["diffusion"] = {
        "objective": "x0-flow",
        "timesteps": {"name": "logit-normal", "mean": 0.4 if pixels else 0.0, "std": 1.0},
    }
    # 39 calls of the network; of 20 steps or fewer none begins below x0-flow's clamp.
    tree["sample"] |= {"sampler": "heun", "steps": 20}


def _patch_size(inputs: Sequence[Size], wanted: int = 2) -> int:
    """``wanted``, by default that of all the paper's models, where it divides all and makes not too many; else the
    next.
    """
    sides = (wanted, 2, 1, *range(3, min(map(min, inputs)) + 1))
    divisors = [side for side in sides if all(size.divides_by(side) for size in inputs)]
    return next((side for side in divisors if max(size.cut_into(side).area for size in inputs) <= _MOST_PATCHES), 1)


def _inputs_of(contract: DataContract) -> Tree:
    codec = contract.recipe_codec()
    return {"resolution": contract.resolution.plain(), "codec": codec, "horizontal_flip": contract.can_flip}


def _describe(contract: DataContract) -> str:
    kind = "pixels" if contract.codec.is_pixels else f"latents of {contract.codec.weights or contract.codec.name}"
    classes = f"{contract.num_classes:,} classes" if contract.num_classes else "no labels"
    return f"{contract.num_samples:,} images of {' or '.join(map(str, contract.sizes))} px, {kind}, {classes}"
