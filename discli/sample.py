"""``discli sample``: checkpoint -> network -> noise to pictures -> PNG files, contact sheet, manifest.

Image i depends on (seed, i) alone. Its noise comes from a stream of its own, and the network always
runs on whole groups of ``model_batch`` images in which image i has a fixed place, because the last
bits of a matrix product depend on how many rows it has.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from discli import __version__
from discli.codecs import load_codec
from discli.console import format_seconds, progress, stderr
from discli.diffusion import build_sampler, build_schedule, guided, trajectory
from discli.errors import DiscliError
from discli.files import write_text
from discli.model import DiS
from discli.recipe import DataContract, Recipe, parse_recipe
from discli.recipe.sample import SampleSpec
from discli.report.sheet import contact_sheet, save_picture
from discli.scan import choose_backend
from discli.streams import Stream, normal, uniform
from discli.training.checkpoint import newest_checkpoint, read_metadata, read_tensors

SHEET_PICTURES = 100


@dataclass(frozen=True)
class Trained:
    """A network with averaged weights, and all that is needed to use it."""

    network: DiS
    recipe: Recipe
    contract: DataContract
    data_file: str | None
    checkpoint: Path
    step: int
    device: torch.device


def sample(
    run: Path | None,
    n: int,
    *,
    cfg_scale: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    classes: Sequence[str] = (),
    out: Path = Path("samples"),
    batch_size: int = 64,
    checkpoint_step: int | None = None,
    overwrite: bool = False,
    device: str | None = None,
) -> Path:
    """Write n pictures, ``OUT/000000.png`` and on, ``OUT/manifest.json`` and the contact sheet ``OUT.png``.

    ``run`` is a run's folder or a checkpoint's; None takes the newest under ``runs/``. Flags left at
    None follow the recipe. A folder with the same manifest is completed, one with anything else refused.
    ``batch_size`` images are decoded and written at a time; it never changes a pixel.
    """
    if n < 1:
        raise DiscliError(f"-n {n}: nothing to sample.", "Give a number of images of at least 1.")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trained = load_trained(run or newest_run(Path("runs")), where, checkpoint_step)
    recipe = trained.recipe
    settings = _settings(recipe, cfg_scale, steps, sampler, eta)
    wanted = parse_classes(classes, recipe, trained.contract)
    codec = load_codec(trained.contract.codec, where)

    manifest = _manifest(trained, settings, n, seed, wanted)
    done = _prepare_folder(out, manifest, overwrite)
    stderr.print(
        f"Sampling from {trained.checkpoint} (step {trained.step:,}, {manifest['nfe']} network calls an image)"
    )

    # Groups are whole, so that every image keeps its place; a group with all its files is left alone.
    group_size = settings.model_batch
    groups = range((n + group_size - 1) // group_size)
    missing = [g for g in groups if any(i not in done for i in range(g * group_size, min(n, (g + 1) * group_size)))]
    started = time.monotonic()
    with progress("sample", n, "images", done=n - sum(min(group_size, n - g * group_size) for g in missing)) as ticker:
        for together in _chunks(missing, max(1, batch_size // group_size)):
            members, latents = [], []
            for group in together:
                indices = torch.arange(group * group_size, (group + 1) * group_size, device=where)
                labels = draw_classes(indices, wanted, recipe.model.num_classes, seed)
                *_, x0 = denoise(trained.network, recipe, settings, indices, labels, seed)
                kept = min(group_size, n - group * group_size)
                members += indices[:kept].tolist()
                latents.append(x0[:kept])
                ticker.advance(kept)
            for index, picture in zip(members, codec.decode(torch.cat(latents)).cpu(), strict=True):
                save_picture(_to_image(picture), out / file_name(index))
    if missing:
        stderr.print(f"{n:,} images in {out}/ ({format_seconds(time.monotonic() - started)})")

    save_picture(contact_sheet(_read_back(out, min(n, SHEET_PICTURES))), out.with_name(out.name + ".png"))
    write_text(out / "manifest.json", json.dumps(manifest | {"finished": True}, indent=1))
    return out


def denoise(
    network: Callable[..., Tensor],
    recipe: Recipe,
    settings: SampleSpec,
    members: Tensor,
    labels: Tensor | None,
    seed: int,
) -> Iterator[Tensor]:
    """Yields (len(members), C, S, S) in model space after every step; ``members`` are image numbers (int64).

    Step k of image i draws from (seed, NOISE, k + 1, i); k = -1 is where it starts.
    """
    shape = (recipe.in_channels, recipe.input_size, recipe.input_size)
    sampler = build_sampler(settings.sampler, recipe.diffusion, settings.steps, settings.clip_denoised)
    schedule = build_schedule(recipe.diffusion)
    guide = guided(network, recipe.model.num_classes, settings.cfg_scale, settings.guided_channels)
    start = normal(seed, Stream.NOISE, 0, members, shape)
    return trajectory(
        guide, sampler, schedule, start, labels, lambda k: normal(seed, Stream.NOISE, k + 1, members, shape)
    )


def draw_classes(members: Tensor, wanted: Sequence[int], num_classes: int, seed: int) -> Tensor | None:
    """The class of every image: in turn from ``wanted``, else at random from (seed, i); None for unconditional."""
    if num_classes == 0:
        return None
    if wanted:
        return torch.tensor(wanted, device=members.device)[members % len(wanted)]
    return (uniform(seed, Stream.CLASS, 0, members) * num_classes).long().clamp(max=num_classes - 1)


def parse_classes(given: Sequence[str], recipe: Recipe, contract: DataContract) -> list[int]:
    """Class numbers or names, to numbers. Raises DiscliError for those that the model does not have."""
    count = recipe.model.num_classes
    if given and count == 0:
        raise DiscliError("--classes: this model is unconditional.", "Leave --classes out.")
    numbers = []
    for text in given:
        if text in contract.class_names:
            numbers.append(contract.class_names.index(text))
        elif text.isdecimal() and int(text) < count:
            numbers.append(int(text))
        else:
            names = f", or names such as {contract.class_names[0]!r}" if contract.class_names else ""
            raise DiscliError(f"--classes {text}: no such class.", f"Give numbers from 0 to {count - 1}{names}.")
    return numbers


def load_trained(folder: Path, device: torch.device, step: int | None = None) -> Trained:
    """The averaged weights of a run's newest checkpoint, or of the one at ``step``, ready to sample."""
    if (folder / "state.json").is_file():
        checkpoint = folder
    elif step is not None:
        checkpoint = folder / "checkpoints" / f"{step:08d}"
        if not checkpoint.is_dir():
            raise DiscliError(f"{folder} has no checkpoint of step {step}.", f"Look in {folder / 'checkpoints'}.")
    else:
        newest = newest_checkpoint(folder)
        if newest is None:
            raise DiscliError(f"No checkpoint in {folder}.", "Give the folder of a run that discli train wrote.")
        checkpoint = newest
    path = checkpoint / "ema.safetensors"
    metadata = read_metadata(path)
    try:
        recipe = parse_recipe(json.loads(metadata["recipe"]), str(path))
        contract = DataContract.model_validate(json.loads(metadata["contract"]))
    except (KeyError, ValueError):
        raise DiscliError(f"{path} was not written by discli.", "Use a checkpoint of discli train or export.") from None

    choice = choose_backend(recipe.model.scan, device)
    with torch.device("meta"):
        network = DiS.from_recipe(recipe)
    try:
        network.load_state_dict(read_tensors(checkpoint, "ema", device), assign=True)
    except RuntimeError:
        raise DiscliError(
            f"{path} holds weights of another architecture than its recipe.", "Export it again."
        ) from None
    network.eval().requires_grad_(False)
    stderr.print(f"scan: {choice.name} ({choice.reason})")
    return Trained(
        network=network,
        recipe=recipe,
        contract=contract,
        data_file=metadata.get("data_file"),
        checkpoint=checkpoint,
        step=int(checkpoint.name) if checkpoint.name.isdigit() else 0,
        device=device,
    )


def newest_run(runs: Path) -> Path:
    """The run whose checkpoints changed last; says which."""
    found = [p.parent for p in runs.glob("*/checkpoints") if any(p.iterdir())]
    if not found:
        raise DiscliError(f"No trained run under {runs}/.", "Train one (discli train RECIPE), or name a run's folder.")
    newest = max(found, key=lambda run: (run / "checkpoints").stat().st_mtime)
    stderr.print(f"Newest run: {newest}")
    return newest


def file_name(index: int) -> str:
    return f"{index:06d}.png"


def _settings(
    recipe: Recipe, cfg_scale: float | None, steps: int | None, sampler: str | None, eta: float | None
) -> SampleSpec:
    """The recipe's ``[sample]`` with the flags that were given, checked as a recipe is."""
    tree = recipe.model_dump(mode="json")
    if cfg_scale is not None:
        tree["sample"]["cfg_scale"] = float(cfg_scale)
    if steps is not None:
        tree["sample"]["steps"] = steps
    if sampler is not None and sampler != recipe.sample.sampler.name:
        tree["sample"]["sampler"] = {"name": sampler}
    if eta is not None:
        tree["sample"]["sampler"]["eta"] = float(eta)
    return parse_recipe(tree, "flags of discli sample").sample


def _manifest(trained: Trained, settings: SampleSpec, n: int, seed: int, wanted: Sequence[int]) -> dict[str, Any]:
    """Everything needed to make the same pictures again."""
    recipe = trained.recipe
    drawn = draw_classes(torch.arange(n), wanted, recipe.model.num_classes, seed)
    return {
        "discli_version": __version__,
        "torch_version": torch.__version__,
        "device": str(trained.device),
        "run": str(trained.checkpoint.parent.parent),
        "checkpoint": str(trained.checkpoint),
        "step": trained.step,
        "data_file": trained.data_file,
        "n": n,
        "seed": seed,
        "sampler": settings.sampler.model_dump(),
        "steps": settings.steps,
        "nfe": settings.steps * (1 if settings.cfg_scale == 1.0 else 2),
        "cfg_scale": settings.cfg_scale,
        "guided_channels": settings.guided_channels,
        "clip_denoised": settings.clip_denoised,
        "model_batch": settings.model_batch,
        "precision": "fp32",
        "ema": recipe.train.ema.model_dump(),
        "classes": None if drawn is None else drawn.tolist(),
        "recipe": recipe.model_dump(mode="json"),
        "contract": trained.contract.model_dump(mode="json"),
    }


def _prepare_folder(out: Path, manifest: dict[str, Any], overwrite: bool) -> set[int]:
    """Create ``out``, or find which images of the same manifest it has already."""
    present = out / "manifest.json"
    same = False
    if out.exists() and any(out.iterdir()):
        try:
            found = json.loads(present.read_text(encoding="utf-8"))
            ignored = ("finished", "n", "classes")
            same = all(found.get(key) == value for key, value in manifest.items() if key not in ignored)
        except (OSError, ValueError, AttributeError):
            same = False
        if not same and not overwrite:
            raise DiscliError(
                f"{out} holds other files.", "Give another --out, or --overwrite to replace samples in it."
            )
    out.mkdir(parents=True, exist_ok=True)
    own = [path for path in out.glob("*.png") if path.stem.isdigit()]
    if same:
        done = {int(path.stem) for path in own}
    else:
        done = set()
        for path in own:
            path.unlink()
    for leftover in out.glob(".*.writing"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    for index in [i for i in done if i >= manifest["n"]]:
        (out / file_name(index)).unlink()
    write_text(present, json.dumps(manifest | {"finished": False}, indent=1))
    return done


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _to_image(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def _read_back(out: Path, count: int) -> Tensor:
    """The first pictures, (count, 3, H, W) uint8, as they are on disk."""
    pictures = []
    for index in range(count):
        with Image.open(out / file_name(index)) as image:
            width, height = image.size
            flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
            pictures.append(flat.reshape(height, width, 3).permute(2, 0, 1))
    return torch.stack(pictures)
