"""The score card as a page: whole in itself, and no larger than its images need."""

import torch

from discli.reports.score_card import NearestImages, score_card
from discli.runs.eval_result import EvalResult
from tests.reports.test_compare_scores import changed


def page(side):
    images = torch.randint(0, 256, (9, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    nearest = NearestImages(images[:2], images[2:8].view(2, 3, 3, side, side), torch.arange(6.0).view(2, 3))
    result = changed(samples__checkpoint="runs/a/1", samples__step=1000) | {"warnings": ["few"], "per_class": None}
    result["reference"] |= {"kind": "data file", "resolution": [side, side]}
    return score_card(EvalResult.model_validate(result), images, nearest)


def test_a_page_needs_nothing_else_and_fits_a_phone():
    text = page(32)
    assert 'name="viewport"' in text
    assert "://" not in text
    assert text.count("data:image/png") == 1 + 2 * 4
    assert "<script" not in text


def test_large_images_are_compressed():
    assert page(96).count("data:image/jpeg") == 1 + 2 * 4
