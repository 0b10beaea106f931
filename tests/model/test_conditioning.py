"""Where time and class enter, and what they do there, against the formulas written out."""

import pytest
import torch
from torch.nn import functional as F

from discli.model.modulation import GatedModulation, Modulation
from discli.model.skips.sums import GatedSkip
from discli.recipe.model import CONDITIONINGS
from tests.model.small import small


def test_modulation_scales_shifts_and_gates_each_channel_of_what_a_layer_is_given_and_gives():
    x, condition = torch.randn(2, 5, 4), torch.randn(2, 4)
    for kind in (Modulation, GatedModulation):
        modulation = kind(4)
        out = modulation(x, condition, torch.sin)
        for b in range(2):
            vectors = modulation.linear.weight @ F.silu(condition[b]) + modulation.linear.bias
            shift, scale = vectors[:4], vectors[4:8]
            gate = vectors[8:] if kind is GatedModulation else 1.0
            torch.testing.assert_close(out[b], gate * torch.sin(x[b] * (1 + scale) + shift))


def test_under_adaln_zero_every_block_starts_as_doing_nothing():
    model = small(conditioning="adaln-zero")
    streams = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: streams.append(out))
    x = torch.randn(2, 3, 8, 8)
    model(x, torch.tensor([5, 900]), torch.tensor([1, 4]))
    patches = model.patch_embed(x).flatten(2).transpose(1, 2)
    for hidden, residual in streams:
        assert torch.equal(hidden, torch.zeros_like(patches))
        assert torch.equal(residual, patches)


def test_the_gates_of_adaln_zero_open_first_and_then_all_learns():
    model = small(conditioning="adaln-zero")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 4])
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        model(x, t, y).square().mean().backward()
        optimizer.step()
        block = model.blocks[0]
        moved.append([bool(p.grad.any()) for p in (block.modulation.linear.weight, block.mixer.in_proj.weight)])
    assert moved == [[True, False], [True, True]]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_who_hears_of_time_and_class(conditioning):
    """By its name: the first block's streams, and the whole network's output."""
    torch.manual_seed(0)
    model = small(conditioning=conditioning)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    hidden = []
    model.blocks[0].register_forward_hook(lambda _m, _i, out: hidden.append(out[0]))
    x = torch.randn(1, 3, 8, 8)
    outs = [model(x, torch.tensor([t]), torch.tensor([y])) for t, y in ((5, 1), (900, 1), (5, 2))]
    patches = [h[:, model.conditioning.extra_tokens :] for h in hidden]
    for changed in (1, 2):
        assert not torch.equal(outs[0], outs[changed])
        assert torch.equal(patches[0], patches[changed]) == (conditioning == "final-only")
    assert model.pos_embed.shape[1] == 16 + (2 if conditioning == "token" else 0)


def test_a_gated_skip_adds_each_channels_share_of_the_skip_at_first_a_half():
    skip = small(skip="gated").blocks[-1].skip
    assert isinstance(skip, GatedSkip)
    hidden, skipped = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    torch.testing.assert_close(skip(hidden, skipped), hidden + skipped / 2)
    with torch.no_grad():
        skip.gate.copy_(torch.tensor([-100.0, 100.0] * 16))
    expected = hidden.clone()
    expected[..., 1::2] += skipped[..., 1::2]
    torch.testing.assert_close(skip(hidden, skipped), expected)
