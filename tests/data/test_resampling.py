"""The compiled crop gives Pillow's bits, whatever the shape, and also of JPEGs decoded smaller."""

import numpy as np
import pytest
from PIL import Image

from discli.data import decoding, resampling
from discli.data.decoding import ImageTransform, Workers, decode_batches
from discli.data.images import crop, decode, decode_reduced
from discli.data.sources import open_source
from discli.recipe.size import Size
from tests.data.makers import pixels, saved, write_zip

SHAPES = [(64, 64), (65, 64), (127, 90), (90, 127), (128, 128), (131, 400), (400, 131), (300, 200), (40, 30), (64, 171)]


def noise(width: int, height: int) -> Image.Image:
    """Every rounding shows."""
    values = np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_the_loop_is_compiled_and_right_here():
    assert resampling.works()


@pytest.mark.parametrize("size", [16, 31, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_images_come_out_as_pillow_makes_them(shape, size):
    image = noise(*shape)
    assert (resampling.centre_crop(image, Size.square(size), image.size) == crop(image, Size.square(size), "adm")).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_reduced_jpegs_come_out_as_pillow_makes_them(shape):
    image, full = decode_reduced(saved(noise(*shape), "JPEG"), [Size(16, 16)])
    assert full == shape
    assert (image.size == shape) == (min(shape) < 32)
    assert (resampling.centre_crop(image, Size(16, 16), full) == crop(image, Size(16, 16), "adm", full)).all()


def test_many_images_are_compiled_few_are_not_and_the_file_is_the_same(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / "a.zip", {f"{k}.png": saved(pixels(k, 50, 37)) for k in range(6)}))
    called = []
    monkeypatch.setattr(resampling, "works", lambda: called.append(1) or True)
    few = [batch.images for batch in decode_batches(source, range(6), 4, ImageTransform((Size(16, 16),)), Workers(0))]
    assert not called
    monkeypatch.setattr(decoding, "_WORTH_COMPILING", 6)
    many = [batch.images for batch in decode_batches(source, range(6), 4, ImageTransform((Size(16, 16),)), Workers(0))]
    assert called
    assert (np.concatenate(few) == np.concatenate(many)).all()


def test_without_the_compiled_loop_pillow_does_it(monkeypatch):
    def broken():
        raise ImportError("no numba")

    resampling.works.cache_clear()
    monkeypatch.setattr(resampling, "_loop", broken)
    try:
        assert not resampling.works()
        made, *_ = decoding.transform_image(saved(noise(50, 37)), ImageTransform((Size(16, 16),), compiled=True))
        assert (made == crop(noise(50, 37), Size(16, 16), "adm")).all()
    finally:
        resampling.works.cache_clear()


def ramps(**options: object) -> bytes:
    down, across = np.mgrid[0:150, 0:203]
    levels = np.stack([across, down, across + down], axis=-1) * 255 / (203, 150, 353)
    return saved(levels.astype(np.uint8), "JPEG", quality=100, subsampling=0, **options)


def test_a_reduced_jpeg_lies_where_the_whole_one_does():
    reduced, full = decode_reduced(ramps(), [Size(16, 16)])
    assert full == (203, 150)
    assert reduced.size == (26, 19)  # an eighth, rounded up
    apart = crop(reduced, Size(16, 16), "adm", full).astype(int) - crop(decode(ramps()), Size(16, 16), "adm")
    # Pillow's mean of neighbours rounds halves up, at every pass; half a pixel beside its place would be 4 levels.
    assert -2 < apart.mean() < 0
    assert np.abs(apart.mean(axis=(0, 2)) - apart.mean()).max() < 1.5


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_turned_jpeg_is_not_reduced(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, full = decode_reduced(ramps(exif=exif), [Size(16, 16)])
    assert image.size == full == decode(ramps(exif=exif)).size
    assert (np.asarray(image) == np.asarray(decode(ramps(exif=exif)))).all()


def test_images_that_the_crop_does_not_halve_and_other_files_are_not_reduced():
    for data in (saved(pixels(1, 60, 31), "JPEG"), saved(pixels(1, 100, 100))):
        image, full = decode_reduced(data, [Size(16, 16)])
        assert image.size == full
        assert (np.asarray(image) == np.asarray(decode(data))).all()
    with pytest.raises(Exception, match="not an image"):
        decode_reduced(b"text", [Size(16, 16)])
