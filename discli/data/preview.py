"""A look into a data file: samples, decoded again, beside the images they were made from."""

from bisect import bisect
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from discli.data.autoencoders import load_codec
from discli.data.contact_sheet import contact_sheet, on_pages
from discli.data.decoding import ImageTransform, transform_image
from discli.data.images import ImageError
from discli.data.sources import Source, open_source
from discli.data.store import Store
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError


def samples_beside_sources(
    store: Store, count: int, vae: str | None = None, device: str | None = None
) -> tuple[Image.Image, list[str]]:
    """A contact sheet of samples spread over the file, and what its columns show.

    Of each sample: the source's image, the sample decoded, and the stored latent of its mirror image.
    A stored mirror that is not one shows at a glance. The source's column is left out where the source
    is gone, which is said; the mirror's where none is stored. Raises DiscliError as ``load_codec`` does.
    """
    chosen = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(np.int64))
    identity = store.contract.codec
    codec = load_codec(identity, device or ("cuda" if torch.cuda.is_available() else "cpu"), vae)
    columns: dict[str, Tensor] = {}
    try:
        columns["source"] = _sources(store, chosen)
    except (DiscliError, ImageError, KeyError) as error:
        stderr.print(f"The samples stand alone, since their sources are not at hand: {error}")
    for mirrored in (False, True) if store.contract.flip_stored else (False,):
        found = []
        for some in store.in_turn(chosen, len(chosen)):
            stored = store.read(some, np.full(len(some), mirrored) if mirrored else None)
            found.append(codec.decode(identity.to_model_space(stored)).cpu())
        columns["mirrored" if mirrored else "sample"] = on_pages(found)
    interleaved = torch.stack(list(columns.values()), dim=1).flatten(0, 1)
    groups_in_a_row = max(1, round((len(chosen) / len(columns)) ** 0.5))
    return contact_sheet(interleaved, columns=groups_in_a_row * len(columns)), list(columns)


def _sources(store: Store, chosen: npt.NDArray[np.int64]) -> Tensor:
    """(k, 3, H, W) uint8, read and cropped as encode does. Raises where one is gone or unlike what it was."""
    contract, names = store.contract, store.names
    how = ImageTransform(contract.sizes, contract.crop, fast=contract.fast_decode)
    starts = [shard.start for shard in store.shards]
    opened: dict[str, tuple[Source, dict[str, int]]] = {}
    images = []
    for index in chosen.tolist():
        where = store.shards[bisect(starts, index) - 1].contract.source
        if where not in opened:
            source = open_source(Path(where), "none")
            opened[where] = source, {name: position for position, name in enumerate(source.names)}
        source, positions = opened[where]
        pixels, *_ = transform_image(source.read(positions[names[index]]), how)
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
    return on_pages(images)
