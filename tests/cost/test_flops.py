"""The count of operations against torch's own counter, and against sums made by hand for every preset."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from discli.cost.flops import forward_flops
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.model import CONDITIONINGS, MIXERS, SCAN_ORDERS, SKIPS

# GFLOPs of one forward pass: 32 px RGB, p = 4, unconditional; and 32x32x4 latents, p = 2, 1000 classes.
TABLE = {
    "dis-s": (3.7, 14.8),
    "dis-b": (15.3, 60.5),
    "dis-m": (30.0, 118.9),
    "dis-l": (52.4, 208.1),
    "dis-h": (116.2, 460.9),
}


def _recipe(model, data):
    return parse_recipe({"name": "t", "model": model, "data": data, "train": {"steps": 1}}, "t")


@pytest.mark.parametrize("preset", TABLE)
def test_presets_take_the_work_that_their_shapes_imply(preset):
    pixels = _recipe({"preset": preset, "patch_size": 4}, {"resolution": 32})
    latents = _recipe({"preset": preset, "num_classes": 1000}, {"resolution": 256, "codec": "vae"})
    found = [sum(forward_flops(recipe).values()) / 1e9 for recipe in (pixels, latents)]
    assert found == pytest.approx(TABLE[preset], rel=0.01)


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_matrix_products_and_convolutions_equal_torchs_count(skip, conditioning, num_classes):
    model = {
        "embed_dim": 24, "depth": 5, "num_classes": num_classes, "skip": skip, "conditioning": conditioning,
        "d_state": 5, "d_conv": 3, "scan": "reference",
    }  # fmt: skip
    _check_against_torch(model)


SCANNING = [
    {"name": "mamba"},
    {"name": "mamba2", "head_dim": 8, "chunk": 5},
    {"name": "mamba3", "head_dim": 8, "chunk": 5},
    {"name": "mamba3", "head_dim": 8, "chunk": 64, "rotating": 1.0},
    {"name": "hydra", "head_dim": 8, "chunk": 5, "d_conv": 3},
]


@pytest.mark.parametrize("conditioning", ["token", "adaln-zero"])
@pytest.mark.parametrize(
    ("mixer", "order"),
    [
        (mixer, order)
        for mixer in SCANNING
        for order, spec in SCAN_ORDERS.items()
        if spec.walks_share in MIXERS[mixer["name"]].walks_may_share
    ],
    ids=str,
)
def test_scans_in_every_order_equal_torchs_count(mixer, conditioning, order):
    model = {"mixer": mixer, "conditioning": conditioning, "scan_order": order}
    _check_against_torch(model | {"embed_dim": 24, "depth": 3, "d_state": 5, "d_conv": 3, "scan": "reference"})


@pytest.mark.parametrize("place", ["before", "instead"])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_convolutions_equal_torchs_count(place, patch_size):
    model = {
        "patch_embed": {"name": "overlapping", "stem": 3},
        "grid_conv": {"name": "depthwise", "place": place, "size": 5},
        "head_conv": {"name": "residual", "width": 5}, "embed_dim": 24, "depth": 3, "patch_size": patch_size,
        "scan": "reference",
    }  # fmt: skip
    _check_against_torch(model)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("skip", ["concat", "gated"])
def test_attention_equals_torchs_count(skip, conditioning):
    model = {"embed_dim": 24, "depth": 3, "mixer": "attention", "num_classes": 3}
    # Torch counts attention's products where they are written out, and no fused kernel of a CPU.
    with sdpa_kernel(SDPBackend.MATH):
        _check_against_torch(model | {"skip": skip, "conditioning": conditioning})


def _check_against_torch(model):
    recipe = _recipe(model, {"resolution": 8})
    network = DiS.from_recipe(recipe)
    num_classes = recipe.model.num_classes
    y = torch.zeros(1, dtype=torch.long) if num_classes else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1), y)
    ours = forward_flops(recipe)
    assert counter.get_total_flops() == sum(ours.values()) - ours.get("scan", 0)
    assert ("scan" in ours) == (recipe.model.mixer.ordered)
