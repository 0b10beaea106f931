"""A contact sheet shows small images without squares, and larger ones pixel by pixel."""

import numpy as np
import pytest
import torch

from discli.data.contact_sheet import contact_sheet


def cells(images, columns=None):
    """The sheet without its white lines: (rows, columns, h, w) of grey images."""
    sheet = np.array(contact_sheet(images, columns))[..., 0]
    gap = 2
    columns = columns or int(np.ceil(len(images) ** 0.5))
    width = (sheet.shape[1] - gap) // columns
    return [sheet[gap:width, gap + place * width : (place + 1) * width] for place in range(min(columns, len(images)))]


def grey(*rows):
    return torch.tensor(rows, dtype=torch.uint8).expand(1, 3, -1, -1)


@pytest.mark.parametrize("side", [8, 12])
def test_a_small_edge_becomes_a_slope(side):
    left_black = grey(*[[0] * (side // 2) + [255] * (side // 2)] * side)
    [cell] = cells(left_black)
    assert cell.shape == (64 // side * side,) * 2
    row = cell[30].astype(int)
    middle = len(row) // 2
    assert row[:20].max() < 30
    assert row[-20:].min() > 225
    assert len(set(row[middle - 4 : middle + 4])) > 3  # in between, not black and white alone
    assert abs(row.mean() - 127.5) < 3


@pytest.mark.parametrize("side", [13, 16, 32, 40])
def test_a_larger_image_shows_its_pixels(side):
    pixels = torch.randint(0, 256, (side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    [cell] = cells(pixels.expand(1, 3, -1, -1))
    factor = 64 // side
    assert np.array_equal(cell, np.kron(pixels.numpy(), np.ones((factor, factor), np.uint8)))


def test_an_enlarged_image_keeps_to_its_cell():
    black, white = grey(*[[0] * 8] * 8), grey(*[[255] * 8] * 8)
    first, second = cells(torch.cat([black, white]), columns=2)
    assert first.max() == 0
    assert second.min() == 255
