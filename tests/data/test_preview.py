"""The contact sheet of a data file: samples decoded again, beside their sources."""

import numpy as np
import pytest
from PIL import Image

from discli.data.encode import encode
from discli.data.images import crop
from discli.data.preview import samples_beside_sources
from discli.data.store import Store
from discli.recipe.size import Size
from tests.data.autoencoders.autoencoders import save_kl
from tests.data.makers import class_files, pixels, write_folder

CELL = 66  # 16 px, four times as large, and the gap


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", class_files(("ant", "bee"), each=3))


def cells(sheet: Image.Image) -> np.ndarray:
    """(rows, columns, 16, 16, 3): the images of a sheet, at their own size."""
    rows, columns = sheet.height // CELL, sheet.width // CELL
    inner = np.asarray(sheet)[2:, 2:].reshape(rows, CELL, columns, CELL, 3).transpose(0, 2, 1, 3, 4)
    return inner[:, :, :64:4, :64:4]


def test_latents_stand_between_their_source_and_their_mirror_image(folder, tmp_path):
    vae = str(save_kl(tmp_path / "vae"))
    out = encode(folder, 16, vae=vae, out=tmp_path / "a.h5", workers=0, device="cpu")
    sheet, columns = samples_beside_sources(Store(out), 3, device="cpu")
    assert columns == ["source", "sample", "mirrored"]
    shown = cells(sheet)
    assert shown.shape == (3, 3, 16, 16, 3)
    for row, seed in enumerate((0, 2, 12)):  # the first, one in the middle, the last
        assert (shown[row, 0] == crop(Image.fromarray(pixels(seed)), Size(16, 16), "adm")).all()
    assert not (shown[:, 1] == shown[:, 2]).all()


def test_pixels_are_their_source(folder, tmp_path):
    out = encode(folder, 16, out=tmp_path / "a.h5", workers=0)
    sheet, columns = samples_beside_sources(Store(out), 6, device="cpu")
    assert columns == ["source", "sample"]
    shown = cells(sheet)
    assert shown.shape == (3, 4, 16, 16, 3)  # two pairs in a row
    assert (shown[:, 0::2] == shown[:, 1::2]).all()


@pytest.mark.parametrize("what", ["folder", "image"])
def test_a_source_that_is_gone_leaves_the_samples_alone_and_is_said(what, folder, tmp_path, capsys):
    out = encode(folder, 16, out=tmp_path / "a.h5", workers=0)
    gone = folder if what == "folder" else folder / "ant" / "0.png"
    gone.rename(tmp_path / "elsewhere")
    sheet, columns = samples_beside_sources(Store(out), 6, device="cpu")
    assert columns == ["sample"]
    assert (cells(sheet)[0, 0] == crop(Image.fromarray(pixels(0)), Size(16, 16), "adm")).all()
    assert "stand alone" in capsys.readouterr().err
