"""Channel statistics equal those of all values at once, however they are fed."""

import numpy as np
import pytest

from discli.data.autoencoders.rgb import RgbIdentity
from discli.data.autoencoders.vae import VaeIdentity
from discli.data.channel_moments import ChannelMoments

VAE = VaeIdentity(vae="x", kind="AutoencoderKL", weights_sha256="", scaling_factor=0.5, shift_factor=1.0, channels=2)


@pytest.mark.parametrize("side", [8, 300])
def test_pixels_as_the_model_sees_them(side):
    rows = np.random.default_rng(0).integers(0, 256, (7, 3, side, side), dtype=np.uint8)
    rows[:, 2] = 255  # the largest sums there can be
    moments = ChannelMoments()
    moments.add(rows[:5], RgbIdentity())
    moments.add(rows[5:], RgbIdentity())
    seen = rows / 127.5 - 1
    mean, std = moments.as_model_sees(RgbIdentity())
    np.testing.assert_allclose(mean, seen.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std, seen.std((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("orientations", [(), (2,)])
def test_latents_count_the_spread_of_their_posterior(orientations):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(3, 2, (6, *orientations, 2, 4, 4)), rng.uniform(0.5, 1, (6, *orientations, 2, 4, 4))
    moments = ChannelMoments()
    moments.add(np.concatenate([mean, std], axis=-3).astype(np.float32), VAE)
    found_mean, found_std = moments.as_model_sees(VAE)
    axes = tuple(axis for axis in range(mean.ndim) if axis != mean.ndim - 3)
    np.testing.assert_allclose(found_mean, (mean.mean(axes) - 1.0) * 0.5, rtol=1e-5)
    np.testing.assert_allclose(found_std, np.sqrt(mean.var(axes) + (std**2).mean(axes)) * 0.5, rtol=1e-5)


def test_nothing_has_no_statistics():
    assert ChannelMoments().as_model_sees(VAE) == ((), ())
