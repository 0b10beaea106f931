"""How a trained network is called: the batch that fits a card, precision, compilation."""

import pytest
import torch

import discli
from discli.recipe.sample import SampleSpec
from discli.trained import LARGEST_MODEL_BATCH, as_sampled, find_model_batch, largest_batch

GB = 10**9


@pytest.mark.parametrize(
    ("total", "fixed", "per_image", "expected"),
    [
        (80 * GB, 4 * GB, 0.1 * GB, 256),  # (48 - 4) / 0.1 = 440
        (80 * GB, 4 * GB, 0.4 * GB, 64),
        (80 * GB, 0, 1.0, LARGEST_MODEL_BATCH),
        (8 * GB, 4 * GB, 2 * GB, 1),
        (8 * GB, 9 * GB, 2 * GB, 1),
        (80 * GB, 0, 0, LARGEST_MODEL_BATCH),
    ],
)
def test_the_largest_batch_is_a_power_of_two_that_fits(total, fixed, per_image, expected):
    assert largest_batch(total, fixed, per_image) == expected


def test_a_recipe_or_a_cpu_settles_the_batch(tiny_run):
    model = discli.load(tiny_run)
    assert find_model_batch(model, SampleSpec()) == 16
    assert find_model_batch(model, SampleSpec(model_batch=5)) == 5


def test_bf16_is_close_and_not_the_same(tiny_run):
    model = discli.load(tiny_run)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([10, 900]), torch.tensor([0, 10])
    full, half = (as_sampled(model, SampleSpec(precision=name))(x, t, y).float() for name in ("fp32", "bf16"))
    assert 0 < float((full - half).abs().max()) < 0.1 * float(full.abs().max())
