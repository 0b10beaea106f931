"""The attention of today against its formulas, and mixers that differ from block to block."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from discli.cost.describe import recipe_facts
from discli.cost.flops import forward_flops
from discli.cost.hardware import Hardware
from discli.model.block import Block, PairedBlock
from discli.model.mixers import choose_scan
from discli.model.mixers.attention import Attention, Rotary
from discli.model.mixers.mamba import BidirectionalMamba
from discli.model.order import TokenOrder, token_orders
from discli.recipe import parse_recipe
from discli.recipe.model import SCAN_ORDERS
from discli.runtime.errors import DiscliError
from tests.model.small import laid_out, small, small_recipe

PATTERN = ["mamba", {"name": "attention", "head_dim": 8}]


def test_rotated_products_depend_on_how_far_patches_lie_apart_alone():
    torch.manual_seed(0)
    rotary = laid_out(Rotary(16, extra_tokens=2, base=100.0), 5)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    at = [rotary(vector.expand(1, 27, 1, 16))[0, 2:, 0].unflatten(0, (5, 5)) for vector in (q, k)]
    for rows, columns in [(0, 0), (2, 1), (3, -2), (-1, 4)]:
        products = [
            at[0][i, j] @ at[1][i + rows, j + columns]
            for i in range(5)
            for j in range(5)
            if 0 <= i + rows < 5 and 0 <= j + columns < 5
        ]
        torch.testing.assert_close(torch.stack(products), products[0].expand(len(products)))
        n = 4
        expected = torch.zeros((), dtype=torch.float64)
        for distance, shift in ((rows, 0), (columns, n)):
            for i in range(n):
                a, b = shift + i, 2 * n + shift + i
                # q is turned by its own angle, k by `distance` more.
                angle = torch.tensor(distance * 100.0 ** (-i / n), dtype=torch.float64)
                expected = expected + (q[a] * k[a] + q[b] * k[b]) * angle.cos()
                expected = expected + (q[b] * k[a] - q[a] * k[b]) * angle.sin()
        torch.testing.assert_close(products[0], expected)


def test_extra_tokens_and_channels_beyond_pairs_of_both_axes_do_not_turn():
    x = torch.randn(2, 2 + 9, 3, 10)
    out = laid_out(Rotary(10, extra_tokens=2, base=100.0), 3)(x)
    assert torch.equal(out[:, :3], x[:, :3])  # the patch at 0, 0 neither
    assert torch.equal(out[..., 4::5], x[..., 4::5])
    assert not torch.isclose(out[:, 3:], x[:, 3:]).all(-1).any()


@torch.no_grad()
@pytest.mark.parametrize(("qk_norm", "rope"), [(True, True), (True, False), (False, True), (False, False)])
def test_attention_is_a_softmax_of_normed_and_turned_queries_and_keys(qk_norm, rope):
    torch.manual_seed(0)
    settings = {"name": "attention", "head_dim": 8, "qk_norm": qk_norm, "rope": rope}
    mixer = small(mixer=settings).double().blocks[0].token_mixing.mixer
    mixer.qkv.bias.normal_()
    u = torch.randn(2, 18, 32, dtype=torch.float64)
    expected = torch.empty_like(u)
    for norm in (mixer.q_norm, mixer.k_norm) if qk_norm else ():
        norm.weight.normal_(1, 0.2)
    for b in range(2):
        q, k, v = (u[b] @ mixer.qkv.weight.T + mixer.qkv.bias).split(32, dim=-1)
        heard = []
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            both = [q[:, part], k[:, part]]
            if qk_norm:
                norms = (mixer.q_norm.weight, mixer.k_norm.weight)
                both = [
                    x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * w for x, w in zip(both, norms, strict=True)
                ]
            if rope:
                both = [mixer.rotary(x[None, :, None])[0, :, 0] for x in both]
            weights = torch.exp(both[0] @ both[1].T / math.sqrt(8))
            heard.append((weights / weights.sum(1, keepdim=True)) @ v[:, part])
        expected[b] = torch.cat(heard, dim=1) @ mixer.out_proj.weight.T + mixer.out_proj.bias
    torch.testing.assert_close(mixer(u), expected)


def test_the_second_layer_is_a_swiglu_with_as_many_weights():
    mlp = small(mixer="attention").blocks[0].channel_mixing.mixer
    u = torch.randn(2, 3, 32)
    gate, value = (u @ mlp.in_proj.weight.T + mlp.in_proj.bias).chunk(2, dim=-1)
    torch.testing.assert_close(mlp(u), F.linear(gate * torch.sigmoid(gate) * value, mlp.out_proj.weight))
    wide = small(mixer="attention", embed_dim=768, depth=1).blocks[0].channel_mixing.mixer
    weights = wide.in_proj.weight.numel() + wide.out_proj.weight.numel()
    assert weights == 2 * 4 * 768**2


def test_mixers_block_by_block_and_again():
    model = small(mixer=["mamba", "mamba", "attention"], scan_order="zigzag")
    kinds = [type(block) for block in model.blocks]
    assert kinds == [Block, Block, PairedBlock, Block, Block]
    mixers = [block.mixer if isinstance(block, Block) else block.token_mixing.mixer for block in model.blocks]
    assert [type(mixer) for mixer in mixers] == [
        BidirectionalMamba, BidirectionalMamba, Attention, BidirectionalMamba, BidirectionalMamba
    ]  # fmt: skip
    # Of six layers the two of the third block share its rate.
    assert model.drop_path_rates().tolist() == pytest.approx([0, 0, 0.2 / 3, 0.4 / 3, 0.4 / 3, 0.2, 0.2])


@pytest.mark.parametrize("mixer", ["mamba", ["mamba", "attention"], ["attention", "dit", "hydra"]])
def test_a_zigzag_takes_its_next_path_in_the_next_block_that_scans(mixer):
    model = small(mixer=mixer, scan_order="zigzag", depth=7)
    found = [module for module in model.modules() if isinstance(module, TokenOrder)]
    walks = [
        laid_out(token_orders(SCAN_ORDERS["zigzag"](), block, 2)[0], found[0].grid.height)
        for block in range(len(found))
    ]
    tokens = torch.arange(2 + found[0].grid.area).view(1, -1, 1)
    assert len(found) > 1
    assert all(torch.equal(a.permute(tokens), b.permute(tokens)) for a, b in zip(found, walks, strict=True))


@torch.no_grad()
def test_drop_path_goes_layer_by_layer_through_blocks_of_one_and_two():
    torch.manual_seed(0)
    model = small(mixer=PATTERN, skip="add", num_classes=0, depth=3).double()
    streams = []
    for block in model.blocks:
        for layer in [block] if isinstance(block, Block) else [block.token_mixing, block.channel_mixing]:
            layer.register_forward_hook(lambda _m, _i, out: streams.append(out))
    head = []
    model.head.norm.register_forward_hook(lambda _m, _given, out: head.append(out[0]))
    keep = torch.tensor([1.0, 0.5, 0.25, 3.0, 4.0])[:, None].expand(5, 2)
    model(torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([5, 900]), drop_path=keep)
    hidden, residual = zip(*streams, strict=True)
    torch.testing.assert_close(residual[1], residual[0] + 0.5 * hidden[0])
    torch.testing.assert_close(residual[2], residual[1] + 0.25 * hidden[1])
    torch.testing.assert_close(residual[3], residual[2] + 3.0 * (hidden[2] + hidden[0]))
    torch.testing.assert_close(head[0], residual[3] + 4.0 * hidden[3])


def test_a_list_of_mixers_is_counted_described_and_written_down():
    recipe = small_recipe(mixer=PATTERN)
    again = parse_recipe(json.loads(recipe.model_dump_json()), "again")
    assert again == recipe
    assert hash(again.model) == hash(recipe.model)
    parts = [forward_flops(small_recipe(mixer=one, depth=1)) for one in PATTERN]
    whole = forward_flops(recipe)
    assert whole["scan"] == 3 * parts[0]["scan"]
    assert whole["attention"] == 2 * parts[1]["attention"]
    assert whole["mlp"] == 2 * parts[1]["mlp"]
    facts = recipe_facts(recipe, Hardware.of(device="cpu"))
    assert "mixer mamba + attention" in dict(facts.rows)["choices"]
    assert choose_scan(recipe.model, torch.device("cpu")).name != "torch"
    assert choose_scan(small_recipe(mixer=["attention", "dit"]).model, torch.device("cpu")).name == "torch"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mixer": []}, ["model.mixer"]),
        ({"mixer": ["mamba"] * 6}, ["depth is 5"]),
        ({"mixer": ["mamba", "rwkv"]}, ["model.mixer.1", '"mamba", "attention"']),
        ({"mixer": ["mamba", {"name": "attention", "head_dim": 5}]}, ["head_dim 5", "32"]),
        ({"mixer": ["mamba", {"name": "attention", "heads": 5}]}, ["model.mixer.1.heads", "head_dim"]),
        ({"mixer": [["mamba"]]}, ["model.mixer.0"]),
        ({"mixer": ["attention", "dit"], "scan_order": "columns"}, ["columns", '"attention" and "dit"', "raster"]),
        ({"mixer": {"name": "attention", "head_dim": 2}}, ["mixer.rope", "head_dim"]),
        ({"mixer": {"name": "attention", "head_dim": 9}, "embed_dim": 36}, ["mixer.rope", "head_dim"]),
        ({"mixer": {"name": "attention", "rope_base": 0}}, ["model.mixer.rope_base"]),
    ],
)
def test_bad_values_are_refused_in_one_line(settings, says):
    with pytest.raises(DiscliError) as refused:
        small_recipe(**settings)
    text = f"{refused.value} {refused.value.hint}"
    assert all(part in text for part in says), text
    assert "\n" not in text
