"""A trained network's weights in another network: what stays the same, and what is refused."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from discli.model import DiS, load_network
from discli.model.adapt import Trained, adapt, new_blocks
from discli.model.lora import merge_lora, plain_name
from discli.recipe import Recipe
from discli.runtime.errors import DiscliError
from tests.model.small import small_recipe

NAMES = ("ant", "bee", "cow", "dog")
X, T, Y = torch.randn(2, 3, 8, 8), torch.tensor([5.0, 700.0]), torch.tensor([1, 4])


def _trained(recipe: Recipe) -> DiS:
    """Without zeros, which would hide much."""
    network = DiS.from_recipe(recipe).requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.2)
    return network


def _begun(old: DiS, old_recipe: Recipe, recipe: Recipe, names: tuple[str, ...] = NAMES) -> tuple[DiS, dict[str, str]]:
    """The new network, and what became of each parameter."""
    weights, parts = adapt(Trained(old.state_dict(), old_recipe, NAMES, "OLD"), recipe, names)
    network = DiS.from_recipe(recipe)
    with torch.no_grad():
        for name, tensor in weights.items():
            network.get_parameter(name).copy_(tensor)
    return network, {name: part.how for part in parts for name in part.names}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"skip": "gated", "conditioning": "adaln-zero", "mixer": "hydra"},
        {"skip": "add", "conditioning": "adaln", "mixer": ["attention", "mamba"]},
    ],
)
def test_new_blocks_change_nothing_at_first_and_learn(settings):
    recipe, deeper = small_recipe(**settings), small_recipe(**settings, depth=9)
    old = _trained(recipe)
    network, became = _begun(old, recipe, deeper)
    assert torch.equal(network(X, T, Y), old(X, T, Y))
    network(X, T, Y).square().mean().backward()
    for index in new_blocks(recipe, deeper):
        assert any(p.grad is not None and p.grad.any() for p in network.blocks[index].parameters())
        assert {how for name, how in became.items() if name.startswith(f"blocks.{index}.")} == {"new"}
    assert became["blocks.1.norm.weight" if not settings.get("mixer") else "pos_embed"] == "taken"


def test_classes_are_kept_by_name_and_new_ones_begin_at_the_mean():
    recipe, other = small_recipe(), small_recipe(num_classes=3)
    old = _trained(recipe)
    assert old.class_embed
    table = old.class_embed.weight
    network, became = _begun(old, recipe, other, ("cow", "elk", "ant"))
    assert network.class_embed
    expected = torch.stack([table[2], table[:4].mean(0), table[0], table[4]])
    assert torch.equal(network.class_embed.weight, expected)
    assert became["class_embed.weight"] == "changed"


def test_classes_known_by_number_alone_are_taken_in_their_order():
    recipe = small_recipe()
    old = _trained(recipe)
    by_number = Trained(old.state_dict(), recipe, ("0", "1", "2", "3"), "OLD")
    assert torch.equal(
        adapt(by_number, recipe, NAMES)[0]["class_embed.weight"], old.get_parameter("class_embed.weight")
    )


def test_classes_come_to_a_model_that_had_none():
    recipe, other = small_recipe(num_classes=0), small_recipe()
    old = _trained(recipe)
    network, became = _begun(old, recipe, other)
    assert torch.equal(network.pos_embed[:, 1:], old.pos_embed), "the time token's and the patches' positions"
    assert not network.pos_embed[:, 0].any()
    assert became["class_embed.weight"] == "new"


def test_positions_are_interpolated_and_those_of_time_and_class_are_not():
    recipe, larger = small_recipe(), small_recipe(resolution=16)
    old = _trained(recipe)
    network, became = _begun(old, recipe, larger)
    assert torch.equal(network.pos_embed[:, :2], old.pos_embed[:, :2])
    back = F.interpolate(network.pos_embed[0, 2:].detach().T.view(1, 32, 8, 8), (4, 4), mode="area")
    assert torch.nn.functional.cosine_similarity(back.flatten(), old.pos_embed[0, 2:].T.flatten(), dim=0) > 0.8
    assert became["pos_embed"] == "changed"
    assert became["patch_embed.weight"] == "taken"
    assert network(torch.randn(2, 3, 16, 16), T, Y).shape == (2, 6, 16, 16)


def _patchwise(image: Tensor, p: int, q: int) -> Tensor:
    """Each patch of p x p pixels resized to q x q by itself."""
    side, (B, C) = image.shape[-1] // p, image.shape[:2]
    patches = image.view(B, C, side, p, side, p).permute(0, 1, 2, 4, 3, 5).reshape(-1, 1, p, p)
    resized = F.interpolate(patches, (q, q), mode="bilinear", antialias=True).view(B, C, side, side, q, q)
    return resized.permute(0, 1, 2, 4, 3, 5).reshape(B, C, side * q, side * q)


def test_an_enlarged_image_has_the_enlarged_answer():
    recipe, larger = small_recipe(), small_recipe(resolution=16, patch_size=4)
    old = _trained(recipe)
    network, _ = _begun(old, recipe, larger)
    torch.testing.assert_close(network(_patchwise(X, 2, 4), T, Y), _patchwise(old(X, T, Y), 2, 4), rtol=1e-4, atol=1e-4)


def _with_objective(recipe: Recipe, **objective: object) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | {"diffusion": {"objective": objective}})


def test_the_variance_comes_and_goes():
    learned = small_recipe()
    plain = _with_objective(learned, name="v")
    old = _trained(learned)
    network, became = _begun(old, learned, plain)
    assert torch.equal(network(X, T, Y), old(X, T, Y)[:, :3])
    assert became["head.linear.weight"] == "changed"
    again, _ = _begun(network.requires_grad_(False), plain, learned)
    out = again(X, T, Y)
    assert torch.equal(out[:, :3], network(X, T, Y))
    assert not out[:, 3:].any()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"embed_dim": 64}, "model.embed_dim"),
        ({"d_state": 8}, "model.d_state"),
        ({"mixer": "mamba2"}, "model.mixer"),
        ({"skip": "add"}, "model.skip"),
        ({"conditioning": "adaln"}, "model.conditioning"),
        ({"depth": 3}, "model.depth"),
    ],
)
def test_another_network_is_refused_by_the_setting(settings, key):
    recipe = small_recipe()
    with pytest.raises(DiscliError, match=key):
        adapt(Trained(_trained(recipe).state_dict(), recipe, NAMES, "OLD"), small_recipe(**settings), NAMES)


def test_other_settings_of_a_mixer_whose_weights_would_fit_are_refused():
    recipe = small_recipe(mixer={"name": "dit", "head_dim": 8})
    trained = Trained(_trained(recipe).state_dict(), recipe, NAMES, "OLD")
    adapt(trained, recipe, NAMES)
    with pytest.raises(DiscliError, match=r"model\.mixer: .*16"):
        adapt(trained, small_recipe(mixer={"name": "dit", "head_dim": 16}), NAMES)
    chunked = small_recipe(mixer={"name": "mamba2", "chunk": 8})  # which is speed alone
    trained = Trained(_trained(chunked).state_dict(), chunked, NAMES, "OLD")
    adapt(trained, small_recipe(mixer={"name": "mamba2", "chunk": 16}), NAMES)


def test_blocks_that_would_scan_along_other_paths_are_refused_with_a_depth_that_fits():
    recipe = small_recipe(scan_order="zigzag")
    trained = Trained(_trained(recipe).state_dict(), recipe, NAMES, "OLD")
    with pytest.raises(DiscliError) as refused:
        adapt(trained, small_recipe(scan_order="zigzag", depth=7), NAMES)
    assert "13" in refused.value.hint
    adapt(trained, small_recipe(scan_order="zigzag", depth=13), NAMES)


@pytest.mark.parametrize("mixer", ["mamba", "mamba3", "attention"])
def test_lora_begins_as_the_network_and_merges_to_the_same_bits(mixer):
    torch.manual_seed(0)
    plain = DiS.from_recipe(small_recipe(mixer=mixer))
    torch.manual_seed(0)
    recipe = small_recipe(mixer=mixer, lora={"rank": 2})
    network = DiS.from_recipe(recipe)
    names = dict(network.named_parameters())
    assert {plain_name(name) for name in names if not name.endswith((".0.A", ".0.B"))} == {
        name for name, _ in plain.named_parameters()
    }
    assert torch.equal(network(X, T, Y), plain(X, T, Y))
    with torch.no_grad():
        for name, parameter in names.items():
            if name.endswith(".0.B"):
                parameter.normal_(std=0.1)
    changed = network(X, T, Y)
    assert not torch.equal(changed, plain(X, T, Y))
    merged = load_network(small_recipe(mixer=mixer), merge_lora(network.state_dict()))
    assert torch.equal(merged(X, T, Y), changed)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(merged(X, T, Y), network(X, T, Y))
