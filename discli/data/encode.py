"""``discli encode``: images -> one data file that can be trained on, safely interrupted and resumed.

source -> decoded and cropped by worker processes -> latents (or pixels as they are) -> written behind.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import discli
from discli.data.autoencoders import Codec, codec_class, open_codec
from discli.data.buckets import launch
from discli.data.decoding import Decoded, ImageTransform, Workers, decode_batches, usable_cores
from discli.data.grids import FIRST, FOLDER, add_features
from discli.data.images import Crop, TooSmall
from discli.data.merge import find_parts, lacks_features, merge_parts, merge_virtually, share
from discli.data.resume_log import State, resume_log_of
from discli.data.shards import part_of
from discli.data.sources import Source, open_source
from discli.data.store import Store
from discli.data.writer import Rows, StoreWriter, forget_resume_log, skipped_of
from discli.recipe.contract import MOST_SHAPES, DataContract
from discli.recipe.data import CODECS, LARGEST_RGB, default_codec
from discli.recipe.data_files import files_of
from discli.recipe.differences import first_difference
from discli.recipe.size import Size, as_size
from discli.runtime.console import format_bytes, progress, restore_quiet, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.plugins import find_plugin
from discli.runtime.processes import is_locked, own_part, rank_and_world
from discli.runtime.signals import hold_ctrl_c

LatentDtype = Literal["float16", "float32"]

_UNFIT = re.compile(r"[^\w.-]+")  # for a file's name
_WORKER_BYTES = 1 << 21  # of pixels in a worker's batch
_GPU_BATCH_PIXELS = 64 * 256 * 256
_CPU_BATCH = 8


@restore_quiet()
def encode(
    source: str | Path,
    resolution: int | Size | Sequence[Size],
    *,
    codec: str | None = None,
    vae: str | None = None,
    out: str | Path | None = None,
    crop: Crop = "adm",
    labels: str | Path | None = None,
    flip: bool | None = None,
    too_small: TooSmall = "upscale",
    fast_decode: bool = False,
    latent_dtype: LatentDtype = "float16",
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    features: str | None = None,
) -> Path:
    """Writes the data file and returns its path; an interrupted run is resumed.

    ``source``: whatever `open_source` lists. ``resolution``: px of the crop, a side or `Size`, or several. ``codec``: a
    file's of discli/data/autoencoders; by default pixels up to 64 px, latents above. ``vae``: hub id or folder
    of its weights. ``labels``: a csv or json file, or "none". ``flip`` stores the latent of the mirrored image
    too (the default for latents; mirrored pixels need no storing). ``too_small``: what becomes of images
    smaller than the crop. ``fast_decode``: JPEGs that the crop would halve are decoded at a half, a quarter or an
    eighth, with slightly other pixels, which the file records. ``shard`` (i, n) writes part i of n; under torchrun
    or srun the ranks are the shards, and the last to finish merges them. ``workers``: decoding processes.
    ``batch_size``: images at once through the autoencoder. ``features``: a network that then sees the images
    (`discli.data.grids.add_features`); to a file that is finished already they are added. Raises DiscliError for a
    source, output or autoencoder that cannot be used, when no image can be read, and, with status 130, on Ctrl-C.
    """
    source, out, sizes = Path(source), out and Path(out), _sizes(resolution)
    resolution = sizes[0]
    ranks = None
    if features is not None:
        if rank_and_world()[1] > 1:
            raise DiscliError(
                "--features is for one process.", "Encode first; the same command without torchrun adds the features."
            )
        find_plugin(FOLDER, FIRST, "--features", features)
    if shard is None and rank_and_world()[1] > 1:
        shard = ranks = rank_and_world()
        stderr.quiet = ranks[0] > 0
    if fast_decode and crop != "adm":
        raise DiscliError(f"--fast-decode does not go with --crop {crop}, which halves nothing.", "Leave it out.")
    if crop == "celeba" and not (len(sizes) == 1 and resolution.is_square):
        raise DiscliError("--crop celeba cuts squares of one size.", "Give one number: --res 64.")
    name = _choose(codec, vae, resolution)
    if workers is None:
        workers = _default_workers(name, device)
    with Workers(workers) as decoders:
        images = open_source(source, labels)
        stderr.print(f"{source} ({images.kind}): {len(images):,} images, {_classes(images)}")
        opened, images_at_once = _open(name, sizes, vae, batch_size, device)
        if flip and opened.identity.is_pixels:
            stderr.print(f"{name}: --flip stores nothing more, since pixels are mirrored exactly while training.")
        contract = DataContract(
            discli_version=discli.__version__,
            codec=opened.identity,
            resolution=resolution,
            shapes=sizes if len(sizes) > 1 else (),
            crop=crop,
            dtype="uint8" if opened.identity.is_pixels else latent_dtype,
            flip_stored=not opened.identity.is_pixels and flip is not False,
            num_samples=0,
            class_names=images.class_names,
            source=str(images.path.absolute()),
            source_sha256=images.sha256,
            small=too_small,
            fast_decode=fast_decode,
            shard=_checked(shard),
        )
        out = out or _default_out(source, sizes, name)
        target = part_of(out, shard) if shard else out
        if ranks and out.is_file():
            _check_finished(out, contract.model_copy(update={"shard": None}))
        elif target.is_file():
            _check_finished(target, contract)
        else:
            transform = ImageTransform(sizes, crop, too_small, fast_decode)
            positions = share(len(images), shard or (0, 1), opened.slice_size)
            _write(target, images, contract, opened, positions, transform, decoders, images_at_once)
    if ranks:
        stderr.quiet = False
        _merge_if_last(out, *ranks)
        return out
    return target if features is None else add_features(target, features, vae=vae, device=device)


def merge(out: str | Path, parts: str | Path | None = None, *, virtual: bool = False) -> Path:
    """Makes ``out`` of its finished parts: ``OUT.shard-I-of-N.h5`` beside it, or what ``parts`` names.

    ``virtual``: an HDF5 virtual dataset, which reads from them. See `merge_parts` and `merge_virtually`.
    """
    out = Path(out)
    files = files_of(parts) if parts is not None else None
    if out.exists() and (virtual or not lacks_features(out, files)):
        raise DiscliError(f"{out} is there already.", "Delete it to merge again.")
    files = files or find_parts(out)
    if virtual:
        store = merge_virtually(out, files)
        stderr.print(f"{out}: {len(store):,} images, which stay in {len(files)} files. Keep those where they are.")
        return out
    total = sum(len(Store(part, parts=True)) for part in files)
    with progress("merge", total, "images") as ticker:
        store = merge_parts(out, files, ticker.advance)
    stderr.print(f"{out}: {len(store):,} images from {len(files)} parts, which may be deleted now.")
    return out


def _open(
    name: str, sizes: Sequence[Size], vae: str | None, batch_size: int | None, device: str | None
) -> tuple[Codec, int]:
    """The codec, and how many images are decoded at once.

    ``slice_size`` of them go through the autoencoder at once, always: on a GPU an image's last bits can
    depend on how many are computed together.
    """
    pixels = max(size.area for size in sizes)
    if not codec_class(name).computes:
        return open_codec(name, vae), batch_size or min(1024, max(8, _WORKER_BYTES // (3 * pixels)))
    from discli.runtime.devices import pick_device  # imports torch

    where = pick_device(device)
    if where.type == "cuda":
        batch_size = batch_size or max(1, _GPU_BATCH_PIXELS // pixels)
        codec = open_codec(name, vae, where, batch_size)
    else:  # one image keeps all cores busy, and then no batch size shows in the bytes
        batch_size = batch_size or _CPU_BATCH
        codec = open_codec(name, vae, where, 1)
    divisor = codec.identity.downsample
    for resolution in (size for size in sizes if not size.divides_by(divisor)):
        raise DiscliError(
            f"--res {resolution} is not a multiple of {divisor}, by which this autoencoder divides it.",
            f"Nearest: --res {resolution.nearest_multiple(divisor)}",
        )
    return codec, batch_size


def _write(
    target: Path,
    images: Source,
    contract: DataContract,
    codec: Codec,
    positions: range,
    transform: ImageTransform,
    workers: Workers,
    images_at_once: int,
) -> None:
    on_gpu = str(codec.device).startswith("cuda")
    settings = contract.settings() | {"batch_size": codec.slice_size, "bfloat16": on_gpu}
    what = f"encode {contract.shard[0]}/{contract.shard[1]}" if contract.shard else "encode"
    upper_bound = contract.model_copy(update={"num_samples": len(positions)})
    with hold_ctrl_c(), StoreWriter(target, upper_bound, positions, settings) as writer:
        left = range(writer.state.end, positions.stop)
        done = left.start - positions.start
        if done:
            stderr.print(f"Resuming after {done:,} of {len(positions):,} images.")
        laps, total_skipped = _Laps(), len(writer.state.skipped)
        batches = decode_batches(images, left, images_at_once, transform, workers)
        try:
            with progress(what, len(positions), "images", done) as ticker:
                for batch, rows in _encoded(batches, codec, contract, laps):
                    if not np.isfinite(rows).all():
                        raise DiscliError(
                            f"The autoencoder gives infinite or undefined latents near {images.names[batch.start]}.",
                            "Try --latent-dtype float32; if that fails too, the autoencoder is not for such images.",
                        )
                    writer.append(rows, batch.end, batch.skipped, batch.upscaled, batch.shapes)
                    laps.lap("writing")
                    total_skipped += len(batch.skipped)
                    ticker.advance(batch.end - batch.start, f"{total_skipped:,} skipped" if total_skipped else "")
        except KeyboardInterrupt:
            raise DiscliError(
                f"Stopped; {writer.state.rows:,} images are in {writer.partial}.",
                "Run the same command again to resume.",
                status=130,
            ) from None
        stderr.print(f"{ticker.rate:,.1f} images/s; {laps.slowest()}.")
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
                "Look at that file; another crop or --too-small upscale may take it.",
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


def _encoded(
    batches: Iterator[Decoded], codec: Codec, contract: DataContract, laps: "_Laps"
) -> Iterator[tuple[Decoded, Rows]]:
    """Each batch and its rows (k, *row_shape); a GPU works on the next one while those are written."""
    encoding = "the autoencoder" if codec.computes else "copying"
    pending: tuple[Decoded, Callable[[], Rows]] | None = None
    while batch := next(batches, None):
        laps.lap("decoding")
        launched = launch(codec, batch, contract)
        laps.lap(encoding)
        if pending is not None:
            rows = pending[1]()
            laps.lap(encoding)
            yield pending[0], rows
        pending = batch, launched
    laps.lap("decoding")
    if pending is not None:
        rows = pending[1]()
        laps.lap(encoding)
        yield pending[0], rows


class _Laps:
    """How long, in seconds, encoding waited for each of its stages."""

    def __init__(self) -> None:
        self._waited: dict[str, float] = {}
        self._clock = time.monotonic()

    def lap(self, stage: str) -> None:
        """The time since the last lap went into ``stage``."""
        now = time.monotonic()
        self._waited[stage] = self._waited.get(stage, 0.0) + now - self._clock
        self._clock = now

    def slowest(self) -> str:
        stage = max(self._waited, key=lambda name: self._waited[name])
        share_of_time = self._waited[stage] / max(sum(self._waited.values()), 1e-9)
        return f"the slowest stage was {stage} ({share_of_time:.0%} of the time)"


def _default_out(source: Path, sizes: Sequence[Size], name: str) -> Path:
    """In the current folder, where `discli.data.find` looks for it; of ``.`` and ``..`` the folders' own names."""
    stem = source.resolve().name if source.name in ("", "..") else source.name
    size = f"{sizes[0]}-and-{len(sizes) - 1}-more" if len(sizes) > 1 else str(sizes[0])
    return Path(f"{_UNFIT.sub('_', stem.split('.')[0]) or 'data'}-{size}-{name}.h5")


def _sizes(resolution: int | Size | Sequence[Size]) -> tuple[Size, ...]:
    named = [resolution] if isinstance(resolution, int | Size) else list(resolution)
    if not 0 < len(named) <= MOST_SHAPES:
        raise DiscliError(f"--res names {len(named)} sizes.", f"Give {MOST_SHAPES} at most.")
    try:
        return tuple(map(as_size, named))
    except ValueError as error:
        raise DiscliError(f"--res {resolution} is not a size: {error}.", "Example: --res 192x256") from None


def _choose(codec: str | None, vae: str | None, resolution: Size) -> str:
    if codec is not None:
        codec_class(codec)
        if vae is not None and "vae" not in CODECS[codec].model_fields:
            raise DiscliError(f"--vae is given, but --codec {codec} uses none.", "Leave one of them out.")
        return codec
    if vae is not None:
        return "vae"
    codec = default_codec(resolution)
    other, where = ("rgb", "above") if codec == "vae" else ("vae", "at most")
    why = f"{resolution} px is {where} {LARGEST_RGB}" + ("" if resolution.is_square else f"x{LARGEST_RGB}")
    stderr.print(f"codec {codec}, since {why} (--codec {other} for the other).")
    return codec


def _checked(shard: tuple[int, int] | None) -> tuple[int, int] | None:
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise DiscliError(f"--shard {shard[0]}/{shard[1]} does not exist.", f"They count from 0/{shard[1]}.")
    return shard


def _default_workers(name: str, device: str | None) -> int:
    if codec_class(name).computes:
        from discli.runtime.devices import pick_device  # imports torch

        if pick_device(device).type != "cuda":
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
    stderr.print(f"{target} is finished already: {held.num_samples:,} images.")


def _merge_if_last(out: Path, rank: int, world: int) -> None:
    """Each rank tries once; parts that are missing are those of ranks still at work, the last of which merges."""
    missing = [i for i in range(world) if not part_of(out, (i, world)).is_file()]
    if out.exists():
        return
    if missing:
        stderr.print(own_part(rank, world, f"{len(missing)} of {world} parts of {out}"))
        return
    try:
        merge(out)
    except DiscliError as reason:
        if not (out.exists() or is_locked(resume_log_of(out))):
            raise
        # Another rank found all parts in the same moment.
        stderr.print(f"Another process merges the parts. ({reason.message})")


def _classes(images: Source) -> str:
    names = images.class_names
    if not names:
        return "no classes"
    shown = ", ".join(f"{i} {name}" for i, name in enumerate(names[:6]))
    return f"{len(names):,} classes: {shown}" + (f", ... {len(names) - 1} {names[-1]}" if len(names) > 6 else "")


def _report(target: Path, state: State, skipped: int, resolution: Size) -> None:
    stderr.print(f"{target}: {state.rows:,} images, {format_bytes(target.stat().st_size)}")
    if state.upscaled:
        stderr.print(
            f"{state.upscaled:,} were smaller than {resolution} px and enlarged (--too-small skip leaves them out)."
        )
    if skipped:
        stderr.print(f"{skipped:,} skipped: see {skipped_of(target)}")
