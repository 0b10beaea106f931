"""Convolutions over the grid, around patches and after the head: against sums written out, and off at first."""

import pytest
import torch
from torch.nn import functional as F

from discli.model.grid_convs.depthwise import DepthwiseGridConv
from discli.model.head_convs.residual import ResidualHeadConv
from discli.model.init import initialise
from discli.model.patch_embeds.overlapping import OverlappingPatchEmbed
from discli.runtime.errors import DiscliError
from discli.scan import bidirectional_scan
from tests.model.small import laid_out, small, small_recipe

INSTEAD = {"name": "depthwise", "place": "instead"}


def inputs(side=8):
    return torch.randn(2, 3, side, side), torch.tensor([5, 900]), torch.tensor([1, 4])


def spread(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("extra", [0, 2])
def test_each_channel_over_a_square_of_patches_and_extra_tokens_as_they_are(size, extra):
    torch.manual_seed(0)
    conv = laid_out(spread(DepthwiseGridConv(16, extra, "before", size)), 3).double()
    u = torch.randn(2, extra + 9, 16, dtype=torch.float64)
    out = conv(u)
    assert torch.equal(out[:, :extra], u[:, :extra])
    for i in range(3):
        for j in range(3):
            expected = conv.bias.expand(2, -1)
            for a in range(size):
                for b in range(size):
                    row, column = i + a - size // 2, j + b - size // 2
                    if 0 <= row < 3 and 0 <= column < 3:
                        expected = expected + conv.weight[:, 0, a, b] * u[:, extra + 3 * row + column]
            torch.testing.assert_close(out[:, extra + 3 * i + j], expected)


@pytest.mark.parametrize("settings", [{"grid_conv": "depthwise"}, {"head_conv": "residual"}])
def test_before_mixers_and_after_the_head_a_network_starts_as_it_does_without(settings):
    """Its own random numbers come after those of the parts that both have, block by block: so weights are copied."""
    plain, made = small(), small(**settings)
    missing, unexpected = made.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert not unexpected
    assert torch.equal(made(*inputs_once()), plain(*inputs_once()))


def inputs_once():
    torch.manual_seed(3)
    return inputs()


@pytest.mark.parametrize("order", ["raster", "columns", "four", "four-shared", "four-split"])
def test_instead_of_the_scans_own_it_is_in_raster_order_whatever_the_scans(order):
    torch.manual_seed(0)
    model = small(grid_conv=INSTEAD, scan_order=order, d_conv=3, depth=1).double()
    mixer = model.blocks[0].mixer
    for scan in (*mixer.forward_scans, *mixer.backward_scans):
        assert torch.equal(scan.conv_weight, torch.ones_like(scan.conv_weight))
        assert scan.conv_weight.shape[1] == 1
        assert not scan.conv_bias.any()
    assert 0.2 < mixer.grid_conv.weight.abs().max() <= 1 / 3
    u = torch.randn(2, 18, 32, dtype=torch.float64)
    x, z = (half.flatten(2) for half in mixer.in_proj(u).unflatten(-1, (mixer.parts, 2, -1)).unbind(-2))
    grid = x[:, 2:].transpose(1, 2).unflatten(2, (4, 4))
    grid = F.conv2d(grid, mixer.grid_conv.weight, mixer.grid_conv.bias, padding=1, groups=64)
    x = torch.cat([x[:, :2], grid.flatten(2).transpose(1, 2)], dim=1)
    parts = 2 if order == "four-split" else 1
    ys = []
    for number, walk in enumerate(mixer.orders):
        pair = 0 if order == "four-shared" else number
        here = number if parts > 1 else 0
        of_walk = (walk.permute(half.chunk(parts, dim=-1)[here]) for half in (x, z))
        scans = mixer.forward_scans[pair].params(), mixer.backward_scans[pair].params()
        ys.append(walk.unpermute(bidirectional_scan(*of_walk, *scans, "reference")))
    expected = mixer.out_proj(torch.cat(ys, dim=-1) if parts > 1 else sum(ys))
    torch.testing.assert_close(mixer(u), expected)


def test_shared_and_split_walks_have_the_parameters_of_one():
    counts = {
        order: sum(p.numel() for p in small(scan_order=order).parameters())
        for order in ("raster", "four", "four-shared", "four-split")
    }
    assert counts["raster"] == counts["four-shared"] == counts["four-split"] < counts["four"]


@pytest.mark.parametrize(
    ("patch", "side", "width"), [(1, 5, 1), (2, 6, 4), (2, 14, 4), (3, 9, 5), (4, 12, 8), (4, 20, 8)]
)
@pytest.mark.parametrize("stem", [0, 5])
def test_windows_have_their_patch_in_the_middle(patch, side, width, stem):
    torch.manual_seed(0)
    embed = OverlappingPatchEmbed(3, 16, patch, stem).double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    grid = embed(x)
    assert grid.shape == (2, 16, side // patch, side // patch)
    seen = x
    if stem:
        stem_out = F.conv2d(x, embed.stem.weight, embed.stem.bias, padding=1)
        seen = stem_out * torch.sigmoid(stem_out)
    border = (width - patch) // 2
    padded = F.pad(seen, [border] * 4)
    i, j = 1, (side // patch) - 1
    window = padded[:, :, i * patch : i * patch + width, j * patch : j * patch + width]
    assert window.shape[2:] == (width, width)
    expected = torch.einsum("bchw,dchw->bd", window, embed.windows.weight) + embed.windows.bias
    torch.testing.assert_close(grid[:, :, i, j], expected)


def test_after_the_head_two_convolutions_add_to_the_image():
    torch.manual_seed(0)
    conv = spread(ResidualHeadConv(6, 4)).double()
    image = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    inner = F.conv2d(image, conv.expand.weight, conv.expand.bias, padding=1)
    added = F.conv2d(inner * torch.sigmoid(inner), conv.contract.weight, conv.contract.bias, padding=1)
    torch.testing.assert_close(conv(image), image + added)
    initialise_alone = small(head_conv="residual")
    initialise(initialise_alone)
    assert not initialise_alone.head_conv.contract.weight.any()
    assert initialise_alone.head_conv.expand.weight.any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"grid_conv": {"name": "depthwise", "size": 4}}, ["model.grid_conv.size", "odd"]),
        ({"grid_conv": {"name": "depthwise", "place": "after"}}, ["model.grid_conv.place", "before"]),
        ({"grid_conv": INSTEAD, "mixer": "attention"}, ["grid_conv.place", "attention"]),
        ({"grid_conv": INSTEAD, "scan": "mamba-ssm"}, ["mamba-ssm", "grid_conv.place"]),
        ({"d_conv": 5, "scan": "mamba-ssm"}, ["mamba-ssm", "d_conv is 5"]),
        ({"head_conv": {"name": "residual", "width": 0}}, ["model.head_conv.width"]),
        ({"patch_embed": {"name": "overlapping", "stem": -1}}, ["model.patch_embed.stem"]),
    ],
)
def test_bad_values_are_refused_in_one_line(settings, says):
    with pytest.raises(DiscliError) as refused:
        small_recipe(**settings)
    text = f"{refused.value} {refused.value.hint}"
    assert all(part in text for part in says), text
    assert "\n" not in text
