"""Mamba-2 and DiT's attention against the formulas written out token by token, and what they are refused for."""

import math

import pytest
import torch
from torch.nn import functional as F

from discli.model.block import PairedBlock
from discli.recipe.kinds import head_width
from discli.runtime.errors import DiscliError
from tests.model.small import small, small_recipe


def _mamba2_direction(scan, x_LE):
    """One direction of one sample, as equations over tokens, heads and channels."""
    L, E = x_LE.shape
    K, heads = scan.conv_weight.shape[1], len(scan.A_log)
    P, N = E // heads, (len(scan.x_proj) - heads) // 2
    padded = torch.cat([x_LE.new_zeros(K - 1, E), x_LE])
    h = x_LE.new_zeros(heads, P, N)
    ys = []
    for t in range(L):
        x = F.silu((padded[t : t + K].T * scan.conv_weight).sum(1) + scan.conv_bias)
        dt, B, C = torch.split(scan.x_proj @ x, [heads, N, N])
        delta = torch.log1p(torch.exp(dt + scan.dt_bias))
        x = x.view(heads, P)
        for k in range(heads):
            h[k] = torch.exp(-delta[k] * scan.A_log[k].exp()) * h[k] + delta[k] * x[k].outer(B)
        ys.append((h @ C + scan.D[:, None] * x).flatten())
    return torch.stack(ys)


@torch.no_grad()
def test_mamba2_is_its_recurrence_both_ways_behind_one_gate():
    torch.manual_seed(0)
    mixer = small(mixer={"name": "mamba2", "head_dim": 16, "chunk": 4}, d_state=3, d_conv=3).double().blocks[2].mixer
    u = torch.randn(1, 11, 32, dtype=torch.float64)
    x, z = (mixer.in_proj.weight @ u[0].T).T.split(64, dim=-1)
    y = _mamba2_direction(mixer.forward_scan, x) + _mamba2_direction(mixer.backward_scan, x.flip(0)).flip(0)
    expected = (y * z * torch.sigmoid(z)) @ mixer.out_proj.weight.T
    torch.testing.assert_close(mixer(u)[0], expected, rtol=1e-10, atol=1e-10)


def test_the_chunk_of_mamba2_changes_no_result():
    outs = []
    for chunk in (3, 64):
        torch.manual_seed(0)
        model = small(mixer={"name": "mamba2", "chunk": chunk}).double()
        torch.manual_seed(1)
        outs.append(model(torch.randn(2, 3, 8, 8).double(), torch.tensor([5, 900]), torch.tensor([1, 4])))
    torch.testing.assert_close(*outs, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_dit_is_a_softmax_over_all_tokens_in_each_head():
    torch.manual_seed(0)
    block = small(mixer={"name": "dit", "head_dim": 8}).double().blocks[0]
    mixer = block.token_mixing.mixer
    mixer.qkv.bias.normal_()
    u = torch.randn(2, 5, 32, dtype=torch.float64)
    expected = torch.empty_like(u)
    for b in range(2):
        q, k, v = (u[b] @ mixer.qkv.weight.T + mixer.qkv.bias).split(32, dim=-1)
        heard = []
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            weights = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(8))
            heard.append((weights / weights.sum(1, keepdim=True)) @ v[:, part])
        expected[b] = torch.cat(heard, dim=1) @ mixer.out_proj.weight.T + mixer.out_proj.bias
    torch.testing.assert_close(mixer(u), expected)


@torch.no_grad()
def test_with_dit_a_block_is_two_residual_layers():
    """Their sum over a whole network is that of a transformer whose skips are off: x + attention, then + MLP."""
    torch.manual_seed(0)
    model = small(mixer="dit", skip="none", num_classes=0).double()
    x, t = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([5, 900])
    patches = model.patch_embed(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.time_embed(t).unsqueeze(1), patches], dim=1)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    for block in model.blocks:
        attention, mlp = block.token_mixing, block.channel_mixing
        tokens = tokens + attention.mixer(norm(tokens, attention.norm.weight))
        wide = norm(tokens, mlp.norm.weight) @ mlp.mixer.in_proj.weight.T
        gelu = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
        tokens = tokens + gelu @ mlp.mixer.out_proj.weight.T
    seen = []
    model.head.norm.register_forward_hook(lambda _m, _given, out: seen.append(out[0]))
    model(x, t)
    torch.testing.assert_close(seen[0], tokens)


@torch.no_grad()
def test_drop_path_takes_each_layer_of_a_pair_by_itself():
    torch.manual_seed(0)
    model = small(mixer="dit", skip="add", num_classes=0, depth=3).double()
    rates = model.drop_path_rates().tolist()
    assert rates == pytest.approx([0, 0, 0, 0.2, 0.2, 0.2, 0.2])
    streams = []
    for block in model.blocks:
        assert isinstance(block, PairedBlock)
        for layer in (block.token_mixing, block.channel_mixing):
            layer.register_forward_hook(lambda _m, _i, out: streams.append(out))
    head = []
    model.head.norm.register_forward_hook(lambda _m, _given, out: head.append(out[0]))
    keep = torch.tensor([1.0, 0.5, 0.0, 2.0, 3.0, 0.25, 4.0])[:, None].expand(7, 2)
    model(torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([5, 900]), drop_path=keep)
    hidden, residual = zip(*streams, strict=True)
    torch.testing.assert_close(residual[1], residual[0] + 0.5 * hidden[0])
    torch.testing.assert_close(residual[2], residual[1])
    torch.testing.assert_close(residual[3], residual[2] + 2.0 * hidden[2])
    # The last block is an out-block: what the first gave joins what is added here.
    torch.testing.assert_close(residual[4], residual[3] + 3.0 * (hidden[3] + hidden[1]))
    torch.testing.assert_close(residual[5], residual[4] + 0.25 * hidden[4])
    torch.testing.assert_close(head[0], residual[5] + 4.0 * hidden[5])


def test_heads_are_as_wide_as_asked_or_near_64():
    assert [head_width(channels, None) for channels in (16, 368, 736, 768, 1536)] == [16, 46, 46, 64, 64]
    assert head_width(768, 96) == 96
    model = small(mixer={"name": "mamba2", "head_dim": 4})
    assert model.blocks[0].mixer.forward_scan.A_log.shape == (16,)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mixer": "attention", "scan_order": "zigzag"}, ["zigzag", "attention", "raster"]),
        ({"mixer": {"name": "attention", "head_dim": 5}}, ["mixer.head_dim 5", "32", "attention"]),
        ({"mixer": {"name": "mamba2", "head_dim": 48}}, ["mixer.head_dim 48", "64", "mamba2"]),
        ({"mixer": "rwkv"}, ["model.mixer", '"mamba", "attention", "dit", "hydra", "mamba2", "mamba3"']),
        ({"scan_order": "hilbert"}, ["model.scan_order", '"raster", "columns", "four", "four-shared", ']),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(settings, says):
    with pytest.raises(DiscliError) as refused:
        small_recipe(**settings)
    text = f"{refused.value}"
    assert all(part in text for part in says), text
    assert "\n" not in text


def test_initial_values_of_mamba2():
    torch.manual_seed(0)
    model = small(mixer={"name": "mamba2", "head_dim": 1}, backward_dt_init="authors", scan_order="four", depth=1)
    mixer = model.blocks[0].mixer
    for scan in (*mixer.forward_scans, *mixer.backward_scans):
        rates = scan.A_log.exp()
        assert rates.min() >= 1
        assert rates.max() <= 16.0001
        assert 6 < rates.mean() < 11
        assert torch.equal(scan.D, torch.ones(64))
        assert 0 < scan.conv_weight.abs().max() <= 0.5
    for scan in mixer.forward_scans:
        delta = F.softplus(scan.dt_bias)
        assert delta.min() >= 0.99e-3
        assert delta.max() <= 1.01e-1
    assert all(torch.equal(scan.dt_bias, torch.zeros(64)) for scan in mixer.backward_scans)
