"""``discli encode``: images -> one data file that can be trained on, in each way that it can be run.

Whole or in parts, under torchrun, with features, merged. How a run encodes: `discli.data.encoding`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import discli
from discli.data.autoencoders import Codec, codec_class, open_codec
from discli.data.decoding import ImageTransform, Workers, usable_cores
from discli.data.encoding import write_encoded
from discli.data.grids import FIRST, FOLDER, add_features
from discli.data.images import Crop, TooSmall
from discli.data.merge import find_parts, lacks_features, merge_parts, merge_virtually, share
from discli.data.resume_log import resume_log_of
from discli.data.shards import part_of
from discli.data.sources import Source, open_source
from discli.data.store import Store
from discli.data.writer import forget_resume_log
from discli.recipe.codec import CodecIdentity, LatentIdentity, Normalise
from discli.recipe.contract import MOST_SHAPES, DataContract
from discli.recipe.data import CODECS, LARGEST_RGB, default_codec
from discli.recipe.data_files import files_of
from discli.recipe.differences import first_difference
from discli.recipe.size import Size, given_size
from discli.runtime.console import progress, restore_quiet, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.plugins import find_plugin
from discli.runtime.processes import is_locked, own_part, processes_here, rank_and_world

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
    normalise: Normalise | None = None,
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
    of its weights. ``normalise``: what latents become where they are read: "scale", by what their autoencoder
    publishes, the default where it does; or "channels", each by its mean and deviation in this file. ``labels``: a
    csv or json file, or "none". ``flip`` stores the latent of the mirrored image too (the default for latents;
    mirrored pixels need no storing). ``too_small``: what becomes of images smaller than the crop. ``fast_decode``:
    JPEGs that the crop would halve are decoded at a half, a quarter or an eighth, with slightly other pixels, which
    the file records. ``shard`` (i, n) writes part i of n; under torchrun or srun the ranks are the shards, and the
    last to finish merges them. ``workers``: decoding processes. ``batch_size``: images at once through the
    autoencoder. ``features``: a network that then sees the images (`discli.data.grids.add_features`); to a file that
    is finished already they are added. Raises DiscliError for a source, output or autoencoder that cannot be used,
    when no image can be read, and, with status 130, on Ctrl-C.
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
        if normalise is not None:
            opened.identity = _normalised(opened, normalise)
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
            write_encoded(target, images, contract, opened, positions, transform, decoders, images_at_once)
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


def _normalised(codec: Codec, normalise: Normalise) -> CodecIdentity:
    identity = codec.identity
    if not isinstance(identity, LatentIdentity):
        raise DiscliError(f"--normalise is for latents, and --codec {identity.name} has none.", "Leave it out.")
    if normalise == "scale" and identity.scaling_factor is None:
        raise DiscliError(
            f"--normalise scale: {identity.vae} publishes no scale for its latents.", "Leave it out: by channels."
        )
    return identity.model_copy(update={"normalise": normalise})


def _default_out(source: Path, sizes: Sequence[Size], name: str) -> Path:
    """In the current folder, where `discli.data.find` looks for it; of ``.`` and ``..`` the folders' own names."""
    stem = source.resolve().name if source.name in ("", "..") else source.name
    size = f"{sizes[0]}-and-{len(sizes) - 1}-more" if len(sizes) > 1 else str(sizes[0])
    return Path(f"{_UNFIT.sub('_', stem.split('.')[0]) or 'data'}-{size}-{name}.h5")


def _sizes(resolution: int | Size | Sequence[Size]) -> tuple[Size, ...]:
    named = [resolution] if isinstance(resolution, int | Size) else list(resolution)
    if not 0 < len(named) <= MOST_SHAPES:
        raise DiscliError(f"--res names {len(named)} sizes.", f"Give {MOST_SHAPES} at most.")
    return tuple(given_size(size, "--res") for size in named)


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
    cores = usable_cores() // processes_here()
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
