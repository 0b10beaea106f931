"""One pass over the pictures."""

import pytest
import torch

from discli.evaluation.metrics import KeptFeatures, RandomFeatures, measure
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_pictures


class Damaged:
    """Random features with one weight that overflowed."""

    name = "random"
    convention = None
    weights_sha256 = ""

    def __init__(self):
        self.inner = RandomFeatures()
        self.dims = self.inner.dims

    def __call__(self, pictures):
        rows = self.inner(pictures)["features"]
        rows[pictures.flatten(1).float().mean(dim=1) == 255, 3] = float("nan")
        return {"features": rows}


def test_every_meter_sees_every_picture_once_and_in_order():
    pictures, kept, counts = drawn_pictures(10, 8, 0), KeptFeatures(), []
    assert measure(pictures.split(4), RandomFeatures(), [kept], counts.append) == 10
    assert counts == [4, 4, 2]
    torch.testing.assert_close(kept.rows(), RandomFeatures()(pictures)["features"])


def test_nan_features_stop_the_pass_and_name_the_picture():
    pictures = drawn_pictures(6, 8, 0)
    pictures[4] = 255
    kept = KeptFeatures()
    with pytest.raises(DiscliError, match="Picture 4: its random features are not finite"):
        measure(pictures.split(3), Damaged(), [kept])
    assert len(kept.rows()) == 3
