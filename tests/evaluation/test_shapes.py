"""Scores of images that are not square, and against a reference of several shapes."""

import numpy as np
import pytest
import torch
from PIL import Image

from discli.data.encode import encode
from discli.evaluation.evaluate import evaluate, make_ref
from discli.evaluation.extractor import load_extractor
from discli.evaluation.images import open_images
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from tests.data.makers import pixels, saved, write_zip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaped")
    shapes = [(20, 20), (30, 18), (18, 30)]
    images = write_zip(folder / "images.zip", {f"{k:02d}.png": saved(pixels(k, *shapes[k % 3])) for k in range(12)})
    return encode(images, (Size(16, 16), Size(12, 20), Size(20, 12)), out=folder / "shaped.h5", workers=0)


@pytest.fixture
def wide(tmp_path):
    for k in range(6):
        Image.fromarray(pixels(k, 20, 12)).save(tmp_path / f"{k}.png")
    return tmp_path


def test_a_reference_of_several_shapes_is_seen_image_by_image_in_order(shaped):
    images, extractor = open_images(shaped, CPU), load_extractor("random", None, None, CPU)
    assert images.size is None
    batches = list(images.batches(range(12), 5))
    alone = [next(images.batches([index], 5)) for index in range(12)]
    together = torch.cat([extractor(batch)["features"] for batch in batches])
    torch.testing.assert_close(together, torch.cat([extractor(image)["features"] for image in alone]))
    assert [tuple(image.shape[2:]) for image in alone[:3]] == [(16, 16), (12, 20), (20, 12)]


def test_samples_of_any_size_are_scored_against_it_and_say_theirs(shaped, wide, tmp_path):
    result = evaluate(wide, ref=shaped, features="random", bootstrap=0, device="cpu")
    assert result.samples.resolution == (12, 20)
    assert result.reference.resolution is None
    assert np.isfinite(result.distance)
    kept = make_ref(shaped, tmp_path / "ref.npz", features="random", device="cpu")
    again = evaluate(wide, ref=kept, features="random", bootstrap=0, device="cpu")
    assert again.distance == pytest.approx(result.distance)


def test_another_size_than_the_references_is_refused_and_so_are_samples_of_several(shaped, wide, tmp_path):
    squares = encode(shaped.with_name("images.zip"), 16, out=tmp_path / "squares.h5", workers=0)
    with pytest.raises(DiscliError, match="16x16 px, the samples 12x20"):
        evaluate(wide, ref=squares, features="random", device="cpu")
    with pytest.raises(DiscliError, match="several sizes"):
        evaluate(shaped, ref=squares, features="random", device="cpu")
