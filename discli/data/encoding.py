"""How one run encodes: images decoded by workers -> through the codec -> written behind, until Ctrl-C or the end."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from discli.data.autoencoders import Codec
from discli.data.buckets import launch
from discli.data.decoding import Decoded, ImageTransform, Workers, decode_batches
from discli.data.resume_log import State
from discli.data.sources import Source
from discli.data.writer import Rows, StoreWriter, skipped_of
from discli.recipe.contract import DataContract
from discli.runtime.console import format_bytes, progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.signals import hold_ctrl_c


def write_encoded(
    target: Path,
    images: Source,
    contract: DataContract,
    codec: Codec,
    positions: range,
    transform: ImageTransform,
    workers: Workers,
    images_at_once: int,
) -> None:
    """The images at ``positions`` into ``target``, which an earlier run may have begun.

    Raises DiscliError as `discli.data.encode.encode` does.
    """
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
        outcome = {"num_samples": state.rows, "num_skipped": len(skipped), "num_upscaled": state.upscaled}
        measured = state.moments.of_contract(contract.codec)._asdict()
        kept = np.setdiff1d(np.arange(positions.start, positions.stop), [position for position, _ in state.skipped])
        writer.finish(
            contract.model_copy(update=outcome | measured),
            [images.names[position] for position in kept],
            None if images.labels is None else images.labels[kept],
            skipped,
            (positions.start, positions.stop, len(images)),
        )
    _report(target, state, len(skipped), contract)


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


def _report(target: Path, state: State, skipped: int, contract: DataContract) -> None:
    stderr.print(f"{target}: {state.rows:,} images, {format_bytes(target.stat().st_size)}")
    if state.upscaled:
        stderr.print(
            f"{state.upscaled:,} were smaller than {' or '.join(map(str, contract.sizes))} px and enlarged"
            " (--too-small skip leaves them out)."
        )
    if skipped:
        stderr.print(f"{skipped:,} skipped: see {skipped_of(target)}")
