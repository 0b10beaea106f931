"""Channel statistics equal those of all values at once, however they are fed."""

import numpy as np
import pytest
import torch

from discli.data.autoencoders.rgb import RgbIdentity
from discli.data.autoencoders.vae import VaeIdentity
from discli.data.channel_moments import ChannelMoments

VAE = VaeIdentity(vae="x", kind="AutoencoderKL", weights_sha256="", scaling_factor=0.5, shift_factor=1.0, channels=2)
CHANNELS = VaeIdentity(vae="x", kind="AutoencoderKL", weights_sha256="", normalise="channels", channels=3)


def seen_by_model(moments, identity):
    found = moments.of_contract(identity)
    return found.channel_mean, found.channel_std


@pytest.mark.parametrize("side", [8, 300])
def test_pixels_as_the_model_sees_them(side):
    rows = np.random.default_rng(0).integers(0, 256, (7, 3, side, side), dtype=np.uint8)
    rows[:, 2] = 255  # the largest sums there can be
    moments = ChannelMoments()
    moments.add(rows[:5], RgbIdentity())
    moments.add(rows[5:], RgbIdentity())
    seen = rows / 127.5 - 1
    mean, std = seen_by_model(moments, RgbIdentity())
    np.testing.assert_allclose(mean, seen.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std, seen.std((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("orientations", [(), (2,)])
def test_latents_count_the_spread_of_their_posterior(orientations):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(3, 2, (6, *orientations, 2, 4, 4)), rng.uniform(0.5, 1, (6, *orientations, 2, 4, 4))
    moments = ChannelMoments()
    moments.add(np.concatenate([mean, std], axis=-3).astype(np.float32), VAE)
    found_mean, found_std = seen_by_model(moments, VAE)
    axes = tuple(axis for axis in range(mean.ndim) if axis != mean.ndim - 3)
    np.testing.assert_allclose(found_mean, (mean.mean(axes) - 1.0) * 0.5, rtol=1e-5)
    np.testing.assert_allclose(found_std, np.sqrt(mean.var(axes) + (std**2).mean(axes)) * 0.5, rtol=1e-5)


def test_nothing_has_no_statistics():
    assert seen_by_model(ChannelMoments(), VAE) == ((), ())


def test_channels_that_are_normalised_are_0_and_1_to_the_model_whatever_they_were():
    rng = np.random.default_rng(0)
    mean = np.array([7.0, -0.2, 3.0])[:, None, None] + np.array([2.0, 0.1, 0.0])[:, None, None] * rng.normal(
        size=(50, 3, 4, 4)
    )
    std = np.broadcast_to(np.array([0.5, 0.3, 0.0])[:, None, None], mean.shape)
    rows = np.concatenate([mean, std], axis=1).astype(np.float16)
    moments = ChannelMoments()
    for start in range(0, 50, 7):
        moments.add(rows[start : start + 7], CHANNELS)
    found = moments.of_contract(CHANNELS)
    assert found.channel_mean == (0, 0, 0)
    assert found.channel_std == (1, 1, 0)  # the last never changes
    stored = torch.from_numpy(rows)
    eps = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = found.codec.to_model_space(stored, eps)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=0.1, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(found.codec.from_model_space(found.codec.to_model_space(stored)), stored[:, :3].float())
