"""``discli sample``: checkpoint -> network -> noise to images -> files, contact sheet, manifest.

Image i depends on (seed, i) alone (`discli.sampling.plan` says how), so neither n, nor an interruption, nor the
number of processes can change it: each process takes whole groups of images and never talks to another.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from discli import __version__
from discli.data.contact_sheet import Images, by_class, draw_sheet, save_image, strip
from discli.diffusion import count_evaluations
from discli.runs.layout import run_of
from discli.runtime.console import format_seconds, progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json, write_text
from discli.runtime.processes import alone_in, check_overwrite, own_part, rank_and_world, share
from discli.sampling.load import LoadedModel
from discli.sampling.output import FORMATS, Background, Memory, Output, open_output
from discli.sampling.plan import Draw, denoising, draw, latents


@overload
def sample(run: LoadedModel | str | Path | None = ..., n: int = ..., *, out: Path | str, **options: Any) -> Path: ...
@overload
def sample(run: LoadedModel | str | Path | None = ..., n: int = ..., *, out: None = ..., **options: Any) -> Images: ...
def sample(
    run: LoadedModel | str | Path | None = None,
    n: int = 16,
    *,
    out: Path | str | None = None,
    classes: str | Sequence[str | int] = "random",
    seed: int = 0,
    form: str = "png",
    grid: tuple[int, int] | None = None,
    show_steps: bool = False,
    batch_size: int = 64,
    checkpoint_step: int | None = None,
    overwrite: bool = False,
    or_beside: bool = False,
    device: str | None = None,
    **settings: Any,
) -> Path | Images:
    """Draw n images; into the folder ``out`` if one is given, else to hand (a notebook shows them).

    ``run`` is what ``load`` returned, a run's folder, a checkpoint's, or None for the newest under
    ``runs/``. ``settings`` are fields of a recipe's ``[sample]`` (cfg_scale, steps, sampler, ...), eta
    for DDIM and autoguidance; what is not given follows the recipe. ``classes``: "random", "balanced",
    or names and numbers, taken in turn.

    Into ``out`` go PNG files (or, by ``form``, samples.npz, samples.zip, or none) and manifest.json,
    beside it the contact sheet ``out``.png with ``grid`` (rows, columns), and with ``show_steps`` the
    denoising of the first images, ``out``.steps.png. A folder with the same manifest is completed,
    one with anything else refused, or with ``or_beside`` left alone: the images then go to ``out``-2 (or -3, ...).
    ``batch_size`` images are decoded and written at a time; it never
    changes a pixel. Under torchrun every process makes its part.
    """
    if n < 1:
        raise DiscliError(f"-n {n}: nothing to sample.", "Give a number of images of at least 1.")
    rank, world = rank_and_world() if out is not None else (0, 1)
    check_overwrite(overwrite, world)
    plan = draw(run, classes, seed, checkpoint_step, device, **settings)
    codec = plan.trained.load_codec()
    labels = _as_list(plan.labels(torch.arange(n)))
    names = plan.trained.contract.class_names
    rows = by_class(range(n), labels, names, grid)
    if out is None:
        kept = Memory(wanted=None)
        _fill(kept, plan, codec.decode, range(plan.groups(n)), n, batch_size, done=set())
        return Images(kept.read(range(n)), labels, draw_sheet(rows, kept.read, grid))

    manifest = manifest_of(plan, n, form)
    on_sheet = {i for _, members in rows for i in members}
    for folder in _places(Path(out), or_beside and not overwrite):
        output = Memory(wanted=on_sheet) if form == "none" else open_output(form, folder)
        with alone_in(folder) if world > 1 else nullcontext():
            others = _what_else(folder, manifest)
            if not (others and or_beside) or overwrite:
                done = _prepare_folder(folder, output, manifest, others, overwrite)
                break
        stderr.print(f"{folder} holds {others}; it stays as it is.")
    if folder != Path(out):
        stderr.print(f"These images go to {folder}.")
    stderr.print(
        f"Sampling from {plan.trained.checkpoint} (step {plan.trained.step:,}, {manifest['nfe']} network calls an"
        f" image, {manifest['precision']}, {plan.model_batch} images a call)"
    )
    started = time.monotonic()
    mine = share(plan.groups(n), rank, world)
    made = _fill(output, plan, codec.decode, mine, n, batch_size, done)
    if made:
        seconds = time.monotonic() - started
        stderr.print(f"{made:,} images in {format_seconds(seconds)} ({made / seconds:,.1f} images/s)")
    if show_steps and rank == 0:
        save_image(strip(denoising(plan, codec.decode)), folder.with_name(folder.name + ".steps.png"))

    # Whoever is last finds all images there and finishes; who is earlier leaves.
    with alone_in(folder) if world > 1 else nullcontext():
        missing = set() if form == "none" else set(range(n)) - output.done()
        if missing:
            stderr.print(own_part(rank, world, f"{len(missing):,} of {n:,} images"))
        else:
            output.finish(n, labels)
            for leftover in folder.glob(".*.writing"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            if form != "none" or world == 1:
                sheet = folder.with_name(folder.name + ".png")
                save_image(draw_sheet(rows, output.read, grid), sheet)
                if len(on_sheet) < n:
                    stderr.print(f"{sheet} shows {len(on_sheet):,} of {n:,} images.")
            write_text(folder / "manifest.json", json.dumps(manifest | {"finished": True}, indent=1))
    return folder


def _fill(
    output: Output,
    plan: Draw,
    decode: Callable[[Tensor], Tensor],
    groups: range,
    n: int,
    batch_size: int,
    done: set[int],
) -> int:
    """Make what is missing of ``groups`` and write it; how many images that were.

    Groups are whole, so that every image keeps its place; a group with all its images is left alone.
    """
    size = plan.model_batch
    missing = [g for g in groups if any(i not in done for i in range(g * size, min(n, (g + 1) * size)))]
    total, todo = (sum(min(size, n - g * size) for g in some) for some in (groups, missing))
    with (
        progress("sample", total, "images", done=total - todo) as ticker,
        Background(decode, output.write, plan.trained.device) as background,
    ):
        waiting: list[Tensor] = []
        numbers: list[int] = []
        for members, x0 in latents(plan, missing, n):
            waiting.append(x0)
            numbers += members
            ticker.advance(len(members))
            if len(numbers) >= batch_size:
                background.put(numbers, torch.cat(waiting))
                waiting, numbers = [], []
        if numbers:
            background.put(numbers, torch.cat(waiting))
    return todo


def manifest_of(plan: Draw, n: int, form: str) -> dict[str, Any]:
    """Everything needed to make the same images again."""
    trained, settings = plan.trained, plan.settings
    recipe = trained.recipe
    on_cuda = trained.device.type == "cuda"
    return {
        "discli_version": __version__,
        "torch_version": torch.__version__,
        "device": torch.cuda.get_device_name(trained.device) if on_cuda else trained.device.type,
        "run": str(run_of(trained.checkpoint.resolve())),
        "checkpoint": str(trained.checkpoint.resolve()),
        "step": trained.step,
        "data_file": trained.data_file,
        "n": n,
        "format": form,
        "seed": plan.seed,
        "nfe": count_evaluations(recipe.diffusion, settings, recipe.in_channels),
        **{key: _identity(key, value) for key, value in settings.model_dump(mode="json").items()},
        "autoguidance_checkpoint": str(plan.weak.checkpoint.resolve()) if plan.weak is not None else None,
        "ema": recipe.train.ema.model_dump(mode="json"),
        "class_choice": list(plan.classes) or "random",
        "classes": _as_list(plan.labels(torch.arange(n))),
        "recipe": recipe.model_dump(mode="json"),
        "contract": trained.contract.model_dump(mode="json"),
    }


def _places(out: Path, or_beside: bool) -> Iterator[Path]:
    """``out``, and if that is taken those beside it. All processes try them in this order."""
    yield out
    if or_beside:
        yield from (out.with_name(f"{out.name}-{number}") for number in count(2))


def _prepare_folder(folder: Path, output: Output, manifest: dict[str, Any], others: str, overwrite: bool) -> set[int]:
    """Create ``folder``, or find which images of the same manifest it has already. Refuses one with ``others``."""
    if others and not overwrite:
        raise DiscliError(f"{folder} holds {others}.", "Give another --out, or --overwrite to replace samples in it.")
    if others:
        for form in FORMATS:
            open_output(form, folder).clear()
    done = output.done() if folder.exists() else set()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "manifest.json", json.dumps(manifest | {"finished": False}, indent=1))
    return done


def _identity(key: str, value: Any) -> Any:
    """A manifest's entry as it is compared: files by where they are, not by how somebody named them."""
    if key in ("run", "checkpoint", "autoguidance_checkpoint") and value is not None:
        return str(Path(value).resolve())
    if key == "guidance" and "checkpoint" in value:
        return value | {"checkpoint": _identity("checkpoint", value["checkpoint"])}
    return value


def _what_else(folder: Path, manifest: dict[str, Any]) -> str:
    """What is in ``folder``, in words; "" for nothing, and for the same images, be it more or fewer of them."""
    if folder.exists() and not folder.is_dir():
        raise DiscliError(f"{folder} is a file.", "Give a folder to --out.")
    if not folder.exists() or all(path.name == ".lock" for path in folder.iterdir()):
        return ""
    try:
        found = read_json(folder / "manifest.json")
        follow = ("n", "classes", "nfe")  # from what the others say
        different = [
            key
            for key, value in manifest.items()
            if key not in follow and _identity(key, found.get(key)) != _identity(key, value)
        ]
    except (OSError, ValueError, TypeError, AttributeError):
        return "other files"
    if not different:
        return ""
    old, new = found.get(different[0]), manifest[different[0]]
    if isinstance(old, dict) or isinstance(new, dict):
        return f"samples of another {different[0]}"
    return f"samples with {different[0]} {old}, not {new}"


def _as_list(labels: Tensor | None) -> list[int] | None:
    return None if labels is None else labels.tolist()
