"""One pass over the images."""

import pytest
import torch

from discli.evaluation.features.random import RandomFeatures
from discli.evaluation.metric import FeatureBuffer, measure
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images


class Damaged:
    """Random features with one weight that overflowed."""

    name = "random"
    convention = None
    weights_sha256 = ""

    def __init__(self):
        self.inner = RandomFeatures()
        self.dims = self.inner.dims

    def __call__(self, images):
        rows = self.inner(images)["features"]
        rows[images.flatten(1).float().mean(dim=1) == 255, 3] = float("nan")
        return {"features": rows}


def test_every_meter_sees_every_image_once_and_in_order():
    images, kept, counts = drawn_images(10, 8, 0), FeatureBuffer(), []
    assert measure(images.split(4), RandomFeatures(), [kept], counts.append) == 10
    assert counts == [4, 4, 2]
    torch.testing.assert_close(kept.rows(), RandomFeatures()(images)["features"])


def test_nan_features_stop_the_pass_and_name_the_image():
    images = drawn_images(6, 8, 0)
    images[4] = 255
    kept = FeatureBuffer()
    with pytest.raises(DiscliError, match="Image 4: its random features are not finite"):
        measure(images.split(3), Damaged(), [kept])
    assert len(kept.rows()) == 3
