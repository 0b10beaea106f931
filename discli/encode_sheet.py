"""A look into a data file: samples, decoded again, beside the pictures they were made from."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from discli.codecs import load_codec, to_model_space
from discli.data.decoding import Preparation, prepare
from discli.data.pictures import PictureError
from discli.data.sources import open_source
from discli.data.store import Store
from discli.errors import DiscliError

_GAP = 4  # pixels of white between columns


def samples_beside_sources(file: Path, count: int = 8, device: str = "cpu") -> Image.Image:
    """One row a sample, spread over the file: the source's picture, the sample decoded, and its mirror image.

    The source's column is left out where the source is gone, the mirror's where none is stored. A stored
    mirror that is not one shows at a glance. Raises DiscliError as ``open_store`` and ``load_codec`` do.
    """
    store = Store(file, parts=True)
    chosen = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(np.int64))
    identity = store.contract.codec
    codec = load_codec(identity, device)
    columns = [_sources(store, chosen)]
    for mirrored in (False, True) if store.contract.flip_stored else (False,):
        stored = store.read(chosen, np.full(len(chosen), mirrored) if mirrored else None)
        pixels = codec.decode(to_model_space(identity, stored)).cpu()
        columns.append(torch.nn.functional.pad(pixels, (_GAP, 0, 0, _GAP), value=255))
    sheet = torch.cat([column for column in columns if column is not None], dim=3)
    rows = sheet.permute(0, 2, 3, 1).reshape(-1, sheet.shape[3], 3)
    return Image.fromarray(rows.numpy())


def _sources(store: Store, chosen: "np.typing.NDArray[np.int64]") -> torch.Tensor | None:
    contract = store.contract
    try:
        source = open_source(Path(contract.source), "none")
    except DiscliError:
        return None
    positions = {name: position for position, name in enumerate(source.names)}
    names = store.names
    how = Preparation(contract.resolution, contract.crop)
    try:
        pictures = [prepare(source.read(positions[names[index]]), how)[0] for index in chosen]
    except (KeyError, PictureError):
        return None
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return torch.nn.functional.pad(pixels, (0, 0, 0, _GAP), value=255)
