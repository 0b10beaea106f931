"""Random features: the same everywhere, and informative on small images."""

import pytest
import torch

from discli.evaluation.features.random import RandomFeatures
from discli.evaluation.frechet import frechet_distance
from discli.evaluation.metric import measure
from discli.evaluation.moments import Moments
from tests.evaluation.cases import blurred, cifar, drawn_images, with_noise

DIM = RandomFeatures.dims["features"]


def gaussian_of(images):
    moments = Moments(DIM)
    measure(images.split(100), RandomFeatures(), [moments])
    return moments.gaussian()


def test_the_weights_never_change():
    # A changed hash makes every distance ever reported incomparable: it needs a new name, not a new hash here.
    expected = "df3aa9884ff1754ca4a508bf539b3f0ef032ce3ba00c63688f707dcf5173b35a"
    assert RandomFeatures().weights_sha256 == expected


def test_the_weights_do_not_touch_or_follow_torchs_generator():
    images = drawn_images(3, 8, 0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = RandomFeatures()(images)["features"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(one, RandomFeatures()(images)["features"])


@pytest.mark.parametrize("size", [2, 3, 8, 17, 32, 64])
def test_images_of_any_size_have_160_finite_features(size):
    images = torch.randint(0, 256, (4, 3, size, size + 1), generator=torch.Generator().manual_seed(0))
    rows = RandomFeatures()(images.to(torch.uint8))["features"]
    assert rows.shape == (4, DIM) == (4, 160)
    assert rows.isfinite().all()


def test_a_image_has_the_same_features_whatever_stands_beside_it():
    images = drawn_images(37, 16, 0)
    network = RandomFeatures()
    together = network(images)["features"]
    alone = torch.cat([network(image[None])["features"] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 32])
def test_distance_grows_with_noise_and_blur_on_drawn_images(size):
    reference, same = gaussian_of(drawn_images(600, size, 0)), drawn_images(400, size, 1)
    halves = frechet_distance(gaussian_of(same), reference)
    for spoil, strengths in ((with_noise, (16, 32, 64)), (blurred, (1, 2, 4))):
        distances = [frechet_distance(gaussian_of(spoil(same, strength)), reference) for strength in strengths]
        assert halves < distances[0] < distances[1] < distances[2]
        assert distances[2] > 5 * halves


def test_halves_of_cifar_are_far_closer_than_cifar_and_its_spoiled_self(shared):
    images = cifar(shared, 1600)
    reference, other = gaussian_of(images[:800]), images[800:]
    halves = frechet_distance(gaussian_of(other), reference)
    noise = [frechet_distance(gaussian_of(with_noise(other, sigma)), reference) for sigma in (16, 32, 64)]
    blur = [frechet_distance(gaussian_of(blurred(other, sigma)), reference) for sigma in (0.8, 1.2, 2)]
    assert halves < noise[0] < noise[1] < noise[2]
    assert halves < blur[0] < blur[1] < blur[2]
    assert min(noise[1], blur[1]) > 2.5 * halves
