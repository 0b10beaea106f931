"""From stored form to model space and back to bytes."""

import pytest
import torch

from discli.data.autoencoders import load_codec, open_codec
from discli.data.autoencoders.rgb import RgbIdentity
from discli.data.autoencoders.vae import VaeIdentity

LATENT = VaeIdentity(
    vae="x", kind="AutoencoderKL", weights_sha256="", scaling_factor=0.36, shift_factor=0.12, channels=2
)


def test_every_pixel_value_survives_the_way_there_and_back():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    seen = RgbIdentity().to_model_space(values)
    assert seen.dtype == torch.float32
    assert seen.min() == -1.0
    assert seen.max() == 1.0
    assert torch.equal(load_codec(RgbIdentity()).decode(seen), values)


def test_decoding_rounds_and_clips():
    codec = open_codec("rgb")
    x = torch.tensor([-9.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 9.0]).reshape(1, 1, 1, 6)
    assert codec.decode(x).flatten().tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_latents_are_shifted_then_scaled(dtype):
    stored = torch.randn(3, 4, 5, 5).to(dtype)
    eps = torch.randn(3, 2, 5, 5)
    mean, std = stored[:, :2].float(), stored[:, 2:].float()
    drawn = LATENT.to_model_space(stored, eps)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn, (mean + std * eps - 0.12) * 0.36)
    torch.testing.assert_close(LATENT.to_model_space(stored), (mean - 0.12) * 0.36)
