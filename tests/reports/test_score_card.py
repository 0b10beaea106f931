"""The score card as a page: whole in itself, and no larger than its images need."""

import re

import torch

from discli.reports.score_card import NearestImages, score_card
from discli.runs.eval_result import EvalResult
from tests.browser import look
from tests.reports.test_compare_scores import changed


def page(side):
    images = torch.randint(0, 256, (9, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    nearest = NearestImages(images[:2], images[2:8].view(2, 3, 3, side, side), torch.arange(6.0).view(2, 3))
    classes = [
        {"class": name, "distance": d, "n": 5, "n_reference": 6}
        for name, d in (("near", 2.0), ("<far>", 8.0), ("a", 8.0))
    ]
    result = changed(samples__checkpoint="runs/a/1", samples__step=1000) | {"warnings": ["<few>"], "per_class": classes}
    result["reference"] |= {"kind": "data file", "resolution": [side, side]}
    return score_card(EvalResult.model_validate(result), images, nearest)


def test_a_page_needs_nothing_else_and_fits_a_phone():
    text = page(32)
    assert 'name="viewport"' in text
    assert "://" not in text
    assert text.count("data:image/png") == 1 + 2 * 4
    assert "<script" not in text


def test_classes_are_listed_worst_first_with_bars_of_their_distance():
    text = page(32)
    assert re.findall(r"<th>(near|&lt;far&gt;|a)</th>", text) == ["&lt;far&gt;", "a", "near"]
    assert re.findall(r"width: ([\d.]+)%", text.partition("</style>")[2]) == ["100.0", "100.0", "25.0"]


def test_a_browser_shows_it_on_a_phone_and_asks_for_nothing(tmp_path):
    seen = look(page(32), tmp_path, 390)
    assert seen.console == []
    assert seen.broken == 0
    assert seen.content <= seen.width <= 390


def test_text_from_outside_is_text():
    assert "&lt;few&gt;" in page(32)
    assert "<few>" not in page(32)


def test_large_images_are_compressed():
    assert page(96).count("data:image/jpeg") == 1 + 2 * 4
