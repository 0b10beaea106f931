"""Images of several shapes in one file: each goes to one of a few, and lies there as a flat row.

A row is as long as that of the largest shape, so that rows are counted, resumed, merged, mapped and moved to a GPU
as ever; the shapes of a file have about as many pixels each, and little is lost. A byte an image says which it is.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from discli.data.autoencoders import Codec
from discli.data.decoding import Decoded
from discli.data.layout import by_shape
from discli.recipe.contract import DataContract


def launch(codec: Codec, batch: Decoded, contract: DataContract) -> Callable[[], npt.NDArray[Any]]:
    """`Codec.launch` of a batch, the images of each shape together; rows are (k, *contract.row_shape)."""
    if batch.shapes is None:
        return codec.launch(batch.images, contract.dtype, contract.flip_stored)
    shapes = batch.shapes
    parts = [(places, _launch_one(codec, batch, contract, number, places)) for number, places in by_shape(shapes)]

    def wait() -> npt.NDArray[Any]:
        rows = np.zeros((len(shapes), *contract.row_shape), contract.dtype)
        for places, ready in parts:
            found = ready().reshape(len(places), *contract.row_shape[:-1], -1)
            rows[places, ..., : found.shape[-1]] = found
        return rows

    return wait


def _launch_one(
    codec: Codec, batch: Decoded, contract: DataContract, number: int, places: npt.NDArray[np.intp]
) -> Callable[[], npt.NDArray[Any]]:
    size = contract.sizes[number]
    images = batch.images[places, : 3 * size.area].reshape(-1, 3, *size)
    return codec.launch(images, contract.dtype, contract.flip_stored)
