"""One network on grids of any height and width."""

import copy

import pytest
import torch

from discli.model import DiS
from discli.model.adapt import Trained, adapt
from discli.model.embed import resized_positions
from discli.recipe import parse_recipe
from discli.recipe.model import SCAN_ORDERS
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from tests.model.small import small_recipe

PARTS = {
    "mixer": ["mamba", {"name": "attention", "head_dim": 8}, "hydra"],
    "grid_conv": "depthwise",
    "head_conv": "residual",
    "patch_embed": "overlapping",
}


def _network(resolution: int | list[int], **settings) -> DiS:
    torch.manual_seed(0)
    network = DiS.from_recipe(small_recipe(resolution, **settings)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def _inputs(height: int, width: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(2, 3, height, width, dtype=torch.float64), torch.tensor([3, 700]), torch.tensor([1, 4])


@torch.no_grad()
@pytest.mark.parametrize("order", list(SCAN_ORDERS))
@pytest.mark.parametrize("size", [(6, 10), (12, 8)])
def test_another_grid_is_that_of_the_network_made_for_it_with_the_positions_resized(order, size):
    parts = PARTS if order in ("raster", "zigzag", "four") else {}
    network, made_for_it = (_network(resolution, scan_order=order, **parts) for resolution in (8, list(size)))
    weights = network.state_dict()
    weights["pos_embed"] = resized_positions(weights["pos_embed"], Size(4, 4), Size(*size).cut_into(2))
    made_for_it.load_state_dict(weights)
    square, other = _inputs(8, 8), _inputs(*size)
    before = network(*square)
    out = network(*other)
    assert out.shape[2:] == size
    torch.testing.assert_close(out, made_for_it(*other), rtol=0, atol=0)
    assert torch.equal(network(*square), before)


def test_positions_learn_from_every_grid():
    network = _network(8)
    network(*_inputs(6, 10)).square().mean().backward()
    assert (network.pos_embed.grad.flatten(1) != 0).any(1).all()
    assert network.pos_embed.grad[0].abs().sum(1).min() > 0


def test_a_twin_that_shares_its_parts_is_not_left_on_the_grid_of_the_other():
    """As the network between classes does."""
    network = _network(8, scan_order="zigzag")
    expected = copy.deepcopy(network)(*_inputs(8, 8))
    twin = copy.copy(network)
    twin(*_inputs(6, 10))
    assert torch.equal(network(*_inputs(8, 8)), expected)


def test_resized_positions_of_a_wave_are_those_of_the_finer_wave():
    def wave(size: Size) -> torch.Tensor:
        down, across = ((torch.arange(length) + 0.5) / length for length in size)
        return (down[:, None].mul(3).sin() + across.mul(2).cos()).reshape(1, -1, 1)

    others = torch.randn(1, 2, 1)
    found = resized_positions(torch.cat([others, wave(Size(12, 16))], 1), Size(12, 16), Size(18, 12))
    assert torch.equal(found[:, :2], others)
    inner = (found[:, 2:] - wave(Size(18, 12))).view(18, 12)[2:-2, 2:-2]
    assert inner.abs().max() < 0.02
    same = torch.randn(1, 20, 3)
    assert torch.allclose(resized_positions(same, Size(4, 5), Size(4, 5)), same)


def test_a_trained_network_begins_on_a_grid_of_another_shape():
    old, new = small_recipe(8), small_recipe([6, 10])
    weights = dict(_network(8).float().named_parameters())
    found, parts = adapt(Trained(weights, old, ["a", "b", "c", "d"], "the model"), new, ["a", "b", "c", "d"])
    assert found["pos_embed"].shape == (1, 2 + 15, 32)
    assert any("4 x 4 patches to 3 x 5" in part.why for part in parts)


@pytest.mark.parametrize(
    ("resolution", "patch", "fits"), [([6, 10], 2, True), ([6, 10], 4, False), ([8, 10], 4, False)]
)
def test_patches_divide_both_sides(resolution, patch, fits):
    tree = {"name": "n", "model": {"embed_dim": 16, "depth": 3, "patch_size": patch}, "train": {"steps": 1}}
    if fits:
        recipe = parse_recipe(tree | {"data": {"resolution": resolution}}, "n")
        assert (recipe.num_patches, recipe.input_shape) == (15, (3, 6, 10))
    else:
        with pytest.raises(DiscliError, match="multiple of 4"):
            parse_recipe(tree | {"data": {"resolution": resolution}}, "n")


@pytest.mark.parametrize("resolution", [[6], [6, 10, 3], "6x10", [0, 8], [6, 2.0], True, 0, [8, 2**20]])
def test_what_is_no_size_is_refused(resolution):
    tree = {"name": "n", "model": {"embed_dim": 16, "depth": 3}, "train": {"steps": 1}}
    with pytest.raises(DiscliError, match=r"data\.resolution"):
        parse_recipe(tree | {"data": {"resolution": resolution}}, "n")


def test_a_square_is_one_number_wherever_it_is_written():
    assert small_recipe(8).model_dump(mode="json")["data"]["resolution"] == 8
    assert small_recipe([8, 8]) == small_recipe(8)
    assert small_recipe([6, 10]).model_dump(mode="json")["data"]["resolution"] == [6, 10]


def test_a_size_first_seen_in_inference_mode_can_be_trained_on_later():
    size = (26, 38)  # that no other test has laid out
    with torch.inference_mode():
        _network(8, scan_order="four", **PARTS)(*_inputs(*size))
    network = _network(8, scan_order="four", **PARTS)
    network(*_inputs(*size)).sum().backward()
    assert network.pos_embed.grad is not None
