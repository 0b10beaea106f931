"""``discli encode``: images -> one data file that can be trained on, safely interrupted and resumed.

source -> decoded and cropped by worker processes -> latents (or pixels as they are) -> written behind.
"""

import os
import re
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

import discli
from discli.data.decoding import ImageTransform, Workers, decode_batches, usable_cores
from discli.data.encode_stage import CodecName, Stage, pick_device
from discli.data.images import Crop
from discli.data.merge import find_parts, merge_parts, part_of, share
from discli.data.resume_log import State, first_difference, resume_log_of
from discli.data.sources import Source, open_source
from discli.data.store import Store
from discli.data.writer import StoreWriter, forget_resume_log, skipped_of
from discli.recipe.contract import DataContract
from discli.recipe.data import LARGEST_RGB
from discli.runtime.console import Ticker, format_bytes, progress, restore_quiet, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.processes import is_locked, own_part, rank_and_world
from discli.runtime.signals import hold_ctrl_c

_UNFIT = re.compile(r"[^\w.-]+")  # for a file's name


@restore_quiet()
def encode(
    source: Path,
    resolution: int,
    *,
    codec: CodecName | None = None,
    vae: str | None = None,
    out: Path | None = None,
    crop: Crop = "adm",
    labels: Path | str | None = None,
    flip: bool | None = None,
    small: Literal["upscale", "skip"] = "upscale",
    moments: Literal["float16", "float32"] = "float16",
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> Path:
    """Writes the data file and returns its path; what an interrupted run wrote is gone on from.

    ``codec``: by default pixels up to 64 px, latents above. ``flip`` stores the latent of the mirrored
    image too (the default for latents; mirrored pixels need no storing). ``shard`` (i, n) writes part
    i of n; under torchrun or srun the ranks are the shards, and the last to finish merges them.
    ``batch_size``: images at once through the autoencoder. Raises DiscliError for a source, output or
    autoencoder that cannot be used, and when no image can be read.
    """
    ranks = None
    if shard is None and rank_and_world()[1] > 1:
        shard = ranks = rank_and_world()
        stderr.quiet = ranks[0] > 0
    name = _choose(codec, vae, resolution)
    if workers is None:
        workers = _default_workers(name, device)
    with Workers(workers) as decoders:
        images = open_source(source, labels)
        _say(f"{source} ({images.kind}): {len(images):,} images, {_classes(images)}")
        stage = Stage(name, resolution, vae=vae, flip=flip, moments=moments, batch_size=batch_size, device=device)
        if flip and name == "rgb":
            _say("rgb: --flip stores nothing more, since pixels are mirrored exactly while training.")
        contract = _promise(images, stage, resolution, crop, small, shard)
        out = out or _default_out(source, resolution, name)
        target = part_of(out, shard) if shard else out
        if ranks and out.is_file():
            _check_finished(out, contract.model_copy(update={"shard": None}))
        elif target.is_file():
            _check_finished(target, contract)
        else:
            positions = share(len(images), shard or (0, 1), stage.slice_size)
            _write(target, images, contract, stage, positions, ImageTransform(resolution, crop, small), decoders)
    if ranks:
        stderr.quiet = False
        _merge_if_last(out, *ranks)
        return out
    return target


def merge(out: Path) -> Path:
    """Makes ``out`` of its finished parts, ``OUT.shard-I-of-N.h5`` beside it. See ``merge_parts``."""
    if out.exists():
        raise DiscliError(f"{out} is there already.", "Delete it to merge again.")
    parts = find_parts(out)
    total = sum(len(Store(part, parts=True)) for part in parts)
    with progress("merge", total, "images") as ticker:
        store = merge_parts(out, ticker.advance)
    _say(f"{out}: {len(store):,} images from {len(parts)} parts, which may be deleted now.")
    return out


def _write(
    target: Path,
    images: Source,
    contract: DataContract,
    stage: Stage,
    positions: range,
    transform: ImageTransform,
    workers: Workers,
) -> None:
    settings = contract.settings() | {"batch_size": stage.slice_size, "bfloat16": stage.on_gpu}
    what = f"encode {contract.shard[0]}/{contract.shard[1]}" if contract.shard else "encode"
    upper_bound = contract.model_copy(update={"num_samples": len(positions)})
    with hold_ctrl_c(), StoreWriter(target, upper_bound, positions, settings) as writer:
        left = range(writer.state.end, positions.stop)
        done = left.start - positions.start
        if done:
            _say(f"Going on after {done:,} of {len(positions):,} images.")
        try:
            with progress(what, len(positions), "images", done) as ticker:
                _fill(writer, images, stage, left, transform, workers, ticker)
        except KeyboardInterrupt:
            raise DiscliError(
                f"Stopped; {writer.state.rows:,} images are in {writer.partial}.",
                "Run the same command again: it goes on from there.",
                status=130,
            ) from None
        state = writer.settle()
        # What could not even be listed belongs to the whole, so to one part of it.
        left_out = images.left_out if positions.start == 0 else ()
        skipped = [f"{name}\t{why}" for name, why in left_out]
        skipped += [f"{images.names[position]}\t{why}" for position, why in state.skipped]
        if not state.rows and contract.shard is None:
            name, why = skipped[-1].split("\t")
            writer.discard()
            raise DiscliError(
                f"None of the {len(positions):,} images could be used, {name} for one: {why}.",
                "Look at that file; another crop or --small upscale may take it.",
            )
        mean, std = state.moments.as_model_sees(contract.codec)
        outcome: dict[str, Any] = {"num_samples": state.rows, "num_skipped": len(skipped), "channel_mean": mean}
        outcome |= {"num_upscaled": state.upscaled, "channel_std": std}
        kept = np.setdiff1d(np.arange(positions.start, positions.stop), [position for position, _ in state.skipped])
        writer.finish(
            contract.model_copy(update=outcome),
            [images.names[position] for position in kept],
            None if images.labels is None else images.labels[kept],
            skipped,
            (positions.start, positions.stop, len(images)),
        )
    _report(target, state, len(skipped), contract.resolution)


def _fill(
    writer: StoreWriter,
    images: Source,
    stage: Stage,
    positions: range,
    transform: ImageTransform,
    workers: Workers,
    ticker: Ticker,
) -> None:
    waited = {"decoding": 0.0, "the autoencoder" if stage.name == "vae" else "copying": 0.0, "writing": 0.0}
    decoding, encoding, writing = waited
    total_skipped = len(writer.state.skipped)
    batches = decode_batches(images, positions, stage.batch_size, transform, workers)
    pending = None
    began = clock = time.monotonic()

    def lap(what: str) -> None:
        nonlocal clock
        now = time.monotonic()
        waited[what] += now - clock
        clock = now

    while True:
        batch = next(batches, None)
        lap(decoding)
        launched = None if batch is None else (batch, stage.launch(batch.images))
        lap(encoding)
        if pending is not None:
            last, rows = pending[0], pending[1]()
            lap(encoding)
            if stage.dtype != "uint8" and not np.isfinite(rows).all():
                raise DiscliError(
                    f"The autoencoder gives infinite or undefined latents near {images.names[last.start]}.",
                    "Try --moments float32; if that fails too, the autoencoder is not for such images.",
                )
            writer.append(rows, last.end, last.skipped, last.upscaled)
            lap(writing)
            total_skipped += len(last.skipped)
            ticker.advance(last.end - last.start, f"{total_skipped:,} skipped" if total_skipped else "")
        if launched is None:
            break
        pending = launched
    total = max(clock - began, 1e-9)
    slowest = max(waited, key=lambda stage_name: waited[stage_name])
    _say(f"{ticker.rate:,.1f} images/s; the slowest stage was {slowest} ({waited[slowest] / total:.0%} of the time).")


def _default_out(source: Path, resolution: int, name: CodecName) -> Path:
    """In the current folder, where `discli.data.find` looks for it; of ``.`` and ``..`` the folders' own names."""
    stem = source.resolve().name if source.name in ("", "..") else source.name
    return Path(f"{_UNFIT.sub('_', stem.split('.')[0]) or 'data'}-{resolution}-{name}.h5")


def _choose(codec: CodecName | None, vae: str | None, resolution: int) -> CodecName:
    if resolution < 1:
        raise DiscliError(f"--res {resolution} is no size.", "Give the images' side in pixels, say --res 256.")
    if codec == "rgb" and vae is not None:
        raise DiscliError("--vae is given, but --codec rgb uses none.", "Leave one of them out.")
    if codec is None:
        codec = "vae" if vae is not None or resolution > LARGEST_RGB else "rgb"
        if vae is None:
            why = f"{resolution} px is {'above' if codec == 'vae' else 'at most'} {LARGEST_RGB}"
            _say(f"codec {codec}, since {why} (--codec {'rgb' if codec == 'vae' else 'vae'} for the other).")
    return codec


def _promise(
    images: Source,
    stage: Stage,
    resolution: int,
    crop: Crop,
    small: Literal["upscale", "skip"],
    shard: tuple[int, int] | None,
) -> DataContract:
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise DiscliError(f"--shard {shard[0]}/{shard[1]} does not exist.", f"They count from 0/{shard[1]}.")
    return DataContract(
        discli_version=discli.__version__,
        codec=stage.identity,
        resolution=resolution,
        crop=crop,
        dtype=stage.dtype,
        flip_stored=stage.flip_stored,
        num_samples=0,
        class_names=images.class_names,
        source=str(images.path.absolute()),
        source_sha256=images.sha256,
        small=small,
        shard=shard,
    )


def _default_workers(name: CodecName, device: str | None) -> int:
    if name == "vae" and not pick_device(device).startswith("cuda"):
        return 0  # the autoencoder needs the cores, and takes far longer than decoding
    cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(32, max(1, cores))


def _check_finished(target: Path, contract: DataContract) -> None:
    held = Store(target, parts=True).contract
    different = first_difference(held.settings(), contract.settings())
    if different is not None:
        name, one, other = different
        raise DiscliError(f"{target} exists, with {name} {one}, not {other}.", "Choose another --out, or delete it.")
    forget_resume_log(target)
    _say(f"{target} is finished already: {held.num_samples:,} images.")


def _merge_if_last(out: Path, rank: int, world: int) -> None:
    """Each rank tries once; parts that are missing are those of ranks still at work, the last of which merges."""
    missing = [i for i in range(world) if not part_of(out, (i, world)).is_file()]
    if out.exists():
        return
    if missing:
        _say(own_part(rank, world, f"{len(missing)} of {world} parts of {out}"))
        return
    try:
        merge(out)
    except DiscliError as reason:
        if not (out.exists() or is_locked(resume_log_of(out))):
            raise
        # Another rank found all parts in the same moment.
        _say(f"Another process merges the parts. ({reason.message})")


def _classes(images: Source) -> str:
    names = images.class_names
    if not names:
        return "no classes"
    shown = ", ".join(f"{i} {name}" for i, name in enumerate(names[:6]))
    return f"{len(names):,} classes: {shown}" + (f", ... {len(names) - 1} {names[-1]}" if len(names) > 6 else "")


def _report(target: Path, state: State, skipped: int, resolution: int) -> None:
    _say(f"{target}: {state.rows:,} images, {format_bytes(target.stat().st_size)}")
    if state.upscaled:
        _say(f"{state.upscaled:,} were smaller than {resolution} px and enlarged (--small skip leaves them out).")
    if skipped:
        _say(f"{skipped:,} skipped: see {skipped_of(target)}")


def _say(text: str) -> None:
    stderr.print(text)
