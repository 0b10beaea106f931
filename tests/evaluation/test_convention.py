"""The resizes against Pillow and against TensorFlow 1's rule."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from discli.evaluation.convention import resize
from tests.evaluation.cases import drawn_images


@pytest.mark.parametrize("size", [32, 299, 512])
def test_clean_fids_resize_is_pillows(size):
    image = drawn_images(1, size, 0)[0]
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]
    expected = np.stack([np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in channels]).clip(0, 255)
    found = resize(image[None].float(), 299, "pil-bicubic")[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-2)


def test_tf1_resize_takes_source_pixels_at_multiples_of_the_scale():
    ramp = torch.arange(13.0).expand(1, 3, 13, 13)
    row = resize(ramp, 299, "tf1-bilinear")[0, 0, 0]
    expected = (torch.arange(299) * (13 / 299)).clamp(max=12)
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (299, 299), (256, 300), (512, 70)])
def test_tf1_resize_is_torch_fidelitys_bit_for_bit(height, width):
    images = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).float()
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.equal(resize(images, 299, "tf1-bilinear"), theirs)
