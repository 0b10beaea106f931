"""A folder of samples: claimed, completed after an interruption, and finished with contact sheet and manifest.

No process talks to another: each makes whole groups of images, and whoever is last finishes the folder.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from discli.data.contact_sheet import by_class, save_animation, save_image, strip
from discli.runs.manifest import Format, Manifest, read_manifest, write_manifest
from discli.runtime.console import format_seconds, progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.processes import alone_in, own_part, rank_and_world, share
from discli.sampling.background import Background
from discli.sampling.generate import denoising_trajectory, generate_latents
from discli.sampling.plan import SamplingPlan
from discli.sampling.sheet import describe_edit, error_of, sheet_grid, sheet_of
from discli.sampling.writers import ImageWriter, open_writer


@dataclass(frozen=True)
class SampleResult:
    """What `write_samples` did."""

    folder: Path  # of the images and manifest.json
    sheet: Path | None  # None: images of other processes are missing, or none were stored for it
    manifest: Manifest  # finished, if all images are there
    made: int  # images made by this call; those that were there already are not made again


def write_samples(
    plan: SamplingPlan,
    n: int,
    out: str | Path,
    *,
    format: Format = "png",
    grid: tuple[int, int] | None = None,
    show_steps: bool = False,
    batch_size: int = 64,
    overwrite: bool = False,
    or_beside: bool = False,
) -> SampleResult:
    """The first n images of ``plan`` into the folder ``out``, with a manifest; the contact sheet is ``out``.png.

    A folder with the same manifest is completed. One with anything else is refused with a DiscliError; with
    ``overwrite`` its samples are replaced; with ``or_beside`` it is left alone, and the images go to ``out``-2
    (or -3, ...). The other arguments are those of `discli.sample`. Under torchrun every process makes its part.

    Between noises or classes, ``out``.gif shows the images in turn, and back.
    """
    check_count(n)
    if show_steps and plan.given is not None:
        raise DiscliError("--show-steps shows an image made of noise alone.", "Leave it or --init out.")
    rank, world = rank_and_world()
    if overwrite and world > 1:  # which cannot tell another's new images from the old ones
        raise DiscliError(f"--overwrite with {world} processes.", "Remove the folder first, or give another --out.")
    manifest = plan.manifest(n, format)
    grid = sheet_grid(plan, n, grid)
    rows = by_class(range(n), manifest.classes, plan.model.contract.class_names, grid)
    on_sheet = {i for _, members in rows for i in members}
    looked_at = [*(on_sheet if plan.between is None else range(n))]
    for folder in _places(Path(out), or_beside and not overwrite):
        writer = open_writer(format, folder, keep=looked_at)
        with _lock(folder, world):
            others = _what_else(folder, manifest, writer)
            if not (others and or_beside) or overwrite:
                done = _prepare_folder(folder, writer, manifest, others, overwrite)
                break
        stderr.print(f"{folder} holds {others}; it stays as it is.")
    if folder != Path(out):
        stderr.print(f"These images go to {folder}.")
    stderr.print(
        f"Sampling from {plan.model.checkpoint} (step {plan.model.step:,}, {manifest.nfe} network calls an image,"
        f" {manifest.precision}, {plan.model_batch} images a call)"
    )
    if plan.given is not None:
        stderr.print(describe_edit(plan))
    started = time.monotonic()
    made = write_images(plan, n, writer, share(len(plan.groups(n)), rank, world), batch_size, done)
    if made:
        seconds = time.monotonic() - started
        stderr.print(f"{made:,} images in {format_seconds(seconds)} ({made / seconds:,.1f} images/s)")
    if show_steps and rank == 0:
        frames = denoising_trajectory(plan, plan.model.load_codec().decode)
        save_image(strip(frames), folder.with_name(folder.name + ".steps.png"))

    with _lock(folder, world):
        missing = set() if format == "none" else set(range(n)) - writer.done()
        if missing:
            stderr.print(own_part(rank, world, f"{len(missing):,} of {n:,} images"))
            return SampleResult(folder, None, manifest, made)
        writer.finish(n, manifest.classes)
        for leftover in folder.glob(".*.writing"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        sheet = None
        if format != "none" or world == 1:
            sheet = folder.with_name(folder.name + ".png")
            save_image(sheet_of(plan, rows, writer.read, grid), sheet)
            if len(on_sheet) < n:
                stderr.print(f"{sheet} shows {len(on_sheet):,} of {n:,} images.")
            if plan.between is not None:
                save_animation(writer.read(range(n)), folder.with_name(folder.name + ".gif"))
            manifest = manifest.model_copy(update={"reconstruction_error": error_of(plan, looked_at, writer.read)})
        manifest = manifest.model_copy(update={"finished": True})
        write_manifest(folder, manifest)
    return SampleResult(folder, sheet, manifest, made)


def write_images(
    plan: SamplingPlan,
    n: int,
    writer: ImageWriter,
    groups: Iterable[int],
    batch_size: int,
    done: Collection[int] = (),
) -> int:
    """Make those of ``groups`` that are not ``done``, ``batch_size`` images at a time; how many images that were.

    Groups are whole, so that every image keeps its place; a group with all its images is left alone.
    """
    size = plan.model_batch
    groups = list(groups)
    missing = [g for g in groups if any(i not in done for i in range(g * size, min(n, (g + 1) * size)))]
    total, todo = (sum(min(size, n - g * size) for g in some) for some in (groups, missing))
    with (
        progress("sample", total, "images", done=total - todo) as ticker,
        Background(plan.decode, writer.write, plan.model.device) as background,
    ):
        waiting: list[Tensor] = []
        numbers: list[int] = []
        for members, x0 in generate_latents(plan, n, missing):
            waiting.append(x0)
            numbers += members
            ticker.advance(len(members))
            if len(numbers) >= batch_size:
                background.put(numbers, torch.cat(waiting))
                waiting, numbers = [], []
        if numbers:
            background.put(numbers, torch.cat(waiting))
    return todo


def check_count(n: int) -> None:
    """Raises DiscliError for a number of images that is none."""
    if n < 1:
        raise DiscliError(f"-n {n}: nothing to sample.", "Give a number of images of at least 1.")


def _lock(folder: Path, world: int) -> AbstractContextManager[None]:
    """Against the other processes, where there are any."""
    return alone_in(folder) if world > 1 else nullcontext()


def _places(out: Path, or_beside: bool) -> Iterator[Path]:
    """``out``, and if that is taken those beside it. All processes try them in this order."""
    yield out
    if or_beside:
        yield from (out.with_name(f"{out.name}-{number}") for number in count(2))


def _prepare_folder(folder: Path, writer: ImageWriter, manifest: Manifest, others: str, overwrite: bool) -> set[int]:
    """Create ``folder``, or find which images of the same manifest it has already. Refuses one with ``others``."""
    if others and not overwrite:
        raise DiscliError(f"{folder} holds {others}.", "Give another --out, or --overwrite to replace samples in it.")
    if others:
        for format in get_args(Format):
            open_writer(format, folder).clear()
    done = writer.done() if folder.exists() else set()
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, manifest)
    return done


def _what_else(folder: Path, manifest: Manifest, writer: ImageWriter) -> str:
    """What is in ``folder``, in words; "" for nothing, and for the same images, be it fewer of them.

    More of them may have taken hours, and are not deleted because somebody wants to look at a few.
    """
    if folder.exists() and not folder.is_dir():
        raise DiscliError(f"{folder} is a file.", "Give a folder to --out.")
    if not folder.exists() or all(path.name == ".lock" for path in folder.iterdir()):
        return ""
    try:
        found = read_manifest(folder)
    except DiscliError:  # corrupt
        found = None
    if found is None:
        return "other files"
    old, new = _compared(found), _compared(manifest)
    different = next((key for key in new if old[key] != new[key]), None)
    if different is None:
        there = writer.done()
        return (
            f"{len(there):,} of these images, more than {manifest.n:,}" if max(there, default=0) >= manifest.n else ""
        )
    if isinstance(old[different], dict) or isinstance(new[different], dict):
        return f"samples of another {different}"
    return f"samples with {different} {old[different]}, not {new[different]}"


def _compared(manifest: Manifest) -> dict[str, Any]:
    """What two manifests of the same images share, files by where they are, not by how somebody named them.

    Images to begin from count by their content. How many images there are, and what follows from other settings, is
    left out.
    """
    entries = manifest.model_dump(mode="json", exclude={"n", "classes", "nfe", "finished", "reconstruction_error"})
    entries["size"] = entries["size"] or "as trained"
    for key in ("run", "checkpoint", "autoguidance_checkpoint"):
        entries[key] = entries[key] and str(Path(entries[key]).resolve())
    if "checkpoint" in entries["guidance"]:
        entries["guidance"]["checkpoint"] = str(Path(entries["guidance"]["checkpoint"]).resolve())
    edit = entries["edit"]
    for image in () if edit is None else filter(None, (*edit["init"], edit["mask"])):
        del image["name"]
    return entries
