"""Every kind of image file comes out as upright RGB, and what is none is named so."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from discli.data import images
from discli.data.images import ImageError, crop, decode, is_too_small
from discli.recipe.size import Size
from tests.data.makers import pixels, saved


def as_rgb(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_png_comes_back_exactly():
    assert (as_rgb(saved(pixels(0))) == pixels(0)).all()


def test_grayscale_is_repeated_over_channels():
    gray = Image.fromarray(pixels(1)).convert("L")
    assert (as_rgb(saved(gray)) == np.asarray(gray)[..., None]).all()


def test_bilevel_is_black_and_white():
    bits = Image.fromarray(pixels(1)).convert("1")
    assert (as_rgb(saved(bits)) == np.asarray(bits)[..., None] * np.uint8(255)).all()


def test_palette_is_looked_up():
    palette = Image.fromarray(pixels(2)).quantize(16)
    assert (as_rgb(saved(palette)) == np.asarray(palette.convert("RGB"))).all()


def test_cmyk_jpeg_has_the_colours_of_its_rgb_original():
    flat = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    read = as_rgb(saved(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=98))
    assert np.abs(read.astype(int) - flat).max() <= 6


def test_transparency_is_laid_over_white():
    half = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 128, np.uint8)])
    half[0, 0] = (9, 9, 9, 0)
    read = as_rgb(saved(half))
    assert (read[0, 0] == 255).all()
    assert np.abs(read[1:].astype(int) - 127).max() <= 1


def test_transparent_palette_entry_becomes_white():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 1)
    read = as_rgb(saved(palette, transparency=0))
    assert read[0, 0].tolist() == [200, 100, 50]
    assert read[1, 1].tolist() == [255, 255, 255]


def test_gray_with_alpha_is_laid_over_white():
    read = as_rgb(saved(Image.new("LA", (4, 4), (0, 0))))
    assert (read == 255).all()


def test_16_bit_grayscale_is_scaled_not_cut_off():
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert as_rgb(saved(Image.fromarray(ramp)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_undone(kind, orientation):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20] = 255  # the top left quarter
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation in turn:
        stored = stored.transpose(turn[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = as_rgb(saved(stored, kind, exif=exif))
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() < 40


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 100, "optimize": True}])
def test_the_short_way_through_plain_jpegs_gives_the_same_pixels(options):
    data = saved(pixels(3, 65, 47), "JPEG", **options)
    short = images._plain_jpeg(data)
    assert short is not None
    assert (np.asarray(short) == np.asarray(images._any_image(data)[0])).all()


def test_the_short_way_leaves_everything_unusual_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    unusual = [
        saved(pixels(3), "JPEG", exif=exif),
        saved(Image.fromarray(pixels(3)).convert("L"), "JPEG"),
        saved(Image.fromarray(pixels(3)).convert("CMYK"), "JPEG"),
        saved(pixels(3)),
        b"\xff\xd8\xff",
    ]
    assert [images._plain_jpeg(data) for data in unusual] == [None] * len(unusual)


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(pixels(seed)).quantize(8) for seed in (0, 1)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert (as_rgb(file.getvalue()) == np.asarray(frames[0].convert("RGB"))).all()


def bomb_png(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(side))) + chunk(b"IEND", b"")
    )


JPEG = saved(pixels(4, 64, 64), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"dear diary, today I was renamed to .png", "not an image"),
        (JPEG[: len(JPEG) * 3 // 4], "truncated"),
        (saved(pixels(4, 64, 64))[:300], "truncated"),
        (JPEG[:25], "."),
        (bomb_png(40_000), "bomb"),
        (bomb_png(14_000), "bomb"),
        (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating point"),
    ],
    ids=["zero bytes", "text", "half a jpeg", "half a png", "a header", "bomb", "small bomb", "float"],
)
def test_bad_files_are_refused_with_a_reason_of_one_line(data, reason):
    with pytest.raises(ImageError, match=reason) as refused:
        decode(data)
    assert "\n" not in str(refused.value)


def test_a_jpeg_claiming_to_be_a_bomb_is_refused_on_both_ways():
    at = JPEG.index(b"\xff\xc0")
    huge = JPEG[: at + 5] + struct.pack(">HH", 40_000, 40_000) + JPEG[at + 9 :]
    with pytest.raises(ImageError, match="bomb"):
        decode(huge)


def test_adm_crop_halves_twice_with_a_box_filter_and_cuts_the_middle():
    image = Image.fromarray(pixels(5, 101, 67))
    quarter = image.resize((50, 33), Image.Resampling.BOX).resize((25, 16), Image.Resampling.BOX)
    assert (crop(image, Size(16, 16), "adm") == np.asarray(quarter)[:, 4:20]).all()


def test_adm_crop_goes_the_rest_of_the_way_bicubically():
    image = Image.fromarray(pixels(5, 101, 40))
    resized = image.resize((50, 20), Image.Resampling.BOX).resize((40, 16), Image.Resampling.BICUBIC)
    assert (crop(image, Size(16, 16), "adm") == np.asarray(resized)[:, 12:28]).all()


def test_adm_crop_of_a_tall_image_cuts_top_and_bottom():
    image = Image.fromarray(pixels(5, 16, 21))
    assert (crop(image, Size(16, 16), "adm") == np.asarray(image)[2:18]).all()


def test_images_of_the_right_size_pass_unchanged():
    assert (crop(Image.fromarray(pixels(6, 32, 32)), Size(32, 32), "adm") == pixels(6, 32, 32)).all()


def test_resize_squeezes_the_whole_image():
    image = Image.fromarray(pixels(7, 40, 20))
    assert (crop(image, Size(16, 16), "resize") == np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))).all()


def test_celeba_crop_is_the_preparation_of_u_vit():
    """Its transforms for CelebA 64: torchvision's crop at (121 - 64, 89 - 64), then Resize."""
    from torchvision.transforms import functional

    face = Image.fromarray(pixels(8, 178, 218))
    theirs = functional.resize(functional.crop(face, 121 - 64, 89 - 64, 128, 128), [64])
    assert (crop(face, Size(64, 64), "celeba") == np.asarray(theirs)).all()


def test_celeba_crop_refuses_images_of_another_size():
    with pytest.raises(ImageError, match="178 x 218"):
        crop(Image.fromarray(pixels(9)), Size(64, 64), "celeba")


def test_smaller_images_are_known_and_enlarged():
    image = Image.fromarray(pixels(9, 40, 15))
    assert is_too_small(image.size, Size(16, 16), "adm")
    assert not is_too_small(image.size, Size(15, 15), "adm")
    assert crop(image, Size(16, 16), "adm").shape == (16, 16, 3)
