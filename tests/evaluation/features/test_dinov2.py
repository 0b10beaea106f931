"""DINOv2's transformer against the same network put together from torch's own modules."""

import pytest
import torch
from torch import nn

from discli.evaluation.convention import resize
from discli.evaluation.features.dinov2 import FILE_NAME, VARIABLE, DinoV2, find_dinov2_weights
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images

DIM, DEPTH = 128, 2


class Block(nn.Module):
    """A pre-norm transformer block with layer scale, of torch's modules."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=1e-6), nn.LayerNorm(DIM, eps=1e-6)
        self.attention = nn.MultiheadAttention(DIM, DIM // 64, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        self.gamma1, self.gamma2 = nn.Parameter(torch.rand(DIM)), nn.Parameter(torch.rand(DIM))
        nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.gamma1 * self.attention(y, y, y, need_weights=False)[0]
        return x + self.gamma2 * self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))

    def as_published(self):
        attention = self.attention
        return {
            "norm1.weight": self.norm1.weight,
            "norm1.bias": self.norm1.bias,
            "norm2.weight": self.norm2.weight,
            "norm2.bias": self.norm2.bias,
            "attn.qkv.weight": attention.in_proj_weight,
            "attn.qkv.bias": attention.in_proj_bias,
            "attn.proj.weight": attention.out_proj.weight,
            "attn.proj.bias": attention.out_proj.bias,
            "ls1.gamma": self.gamma1,
            "ls2.gamma": self.gamma2,
            "mlp.fc1.weight": self.fc1.weight,
            "mlp.fc1.bias": self.fc1.bias,
            "mlp.fc2.weight": self.fc2.weight,
            "mlp.fc2.bias": self.fc2.bias,
        }


class Assembled(nn.Module):
    """The whole network at 224 px; ``position`` already fits its 16 x 16 patches."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 14, 14)
        self.first = nn.Parameter(torch.randn(1, 1, DIM))
        self.position = nn.Parameter(torch.randn(1, 257, DIM))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)

    def forward(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.norm(self.blocks(x)[:, 0])

    def as_published(self):
        state = {f"blocks.{i}.{k}": v for i, block in enumerate(self.blocks) for k, v in block.as_published().items()}
        state |= {"cls_token": self.first, "pos_embed": self.position, "norm.weight": self.norm.weight}
        state |= {"norm.bias": self.norm.bias, "patch_embed.proj.weight": self.patch.weight}
        return {k: v.detach() for k, v in (state | {"patch_embed.proj.bias": self.patch.bias}).items()}


@pytest.fixture(scope="module")
def assembled():
    torch.manual_seed(0)
    return Assembled()


@torch.inference_mode()
def test_features_are_the_class_token_of_the_network_built_from_torchs_modules(assembled, tmp_path):
    torch.save(assembled.as_published(), tmp_path / "vit.pth")
    network = DinoV2(tmp_path / "vit.pth")
    images = drawn_images(3, 32, 0)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = assembled((resize(images.float(), 224, "pil-bicubic") / 255 - mean) / std)
    torch.testing.assert_close(network(images)["features"], expected, rtol=1e-4, atol=1e-4)
    assert network.dims == {"features": DIM}
    assert network.name == "dinov2-vit-128-14"


@torch.inference_mode()
def test_the_published_position_grid_of_518_px_is_brought_to_that_of_224(assembled, tmp_path):
    # A position embedding that rises along the rows keeps rising, and keeps the class token's own.
    state = assembled.as_published()
    grid = torch.linspace(0, 1, 37).view(37, 1, 1).expand(37, 37, DIM).reshape(1, 37 * 37, DIM)
    state["pos_embed"] = torch.cat([torch.full((1, 1, DIM), 7.0), grid], dim=1)
    torch.save(state, tmp_path / "vit.pth")
    position = DinoV2(tmp_path / "vit.pth")._position
    assert position.shape == (1, 257, DIM)
    assert (position[0, 0] == 7).all()
    rows = position[0, 1:].view(16, 16, DIM)
    torch.testing.assert_close(rows[:, 0], rows[:, -1])
    assert (rows[:, 0, 0].diff() > 0).all()
    middles = (torch.arange(16) + 0.5) * (37 / 16.1) - 0.5
    torch.testing.assert_close(rows[2:-2, 0, 0], (middles / 36)[2:-2], rtol=0, atol=2e-3)


@torch.inference_mode()
def test_the_giants_gated_mlp_is_understood(assembled, tmp_path):
    state = assembled.as_published()
    for i in range(DEPTH):
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            del state[f"blocks.{i}.mlp.{name}"]
        # A gate that is constant, silu(100) = 100, leaves the linear map w3 (100 w2 x).
        w2, w3 = torch.eye(DIM) / 100, torch.eye(DIM)
        state[f"blocks.{i}.mlp.w12.weight"] = torch.cat([torch.zeros(DIM, DIM), w2])
        state[f"blocks.{i}.mlp.w12.bias"] = torch.cat([torch.full((DIM,), 100.0), torch.zeros(DIM)])
        state[f"blocks.{i}.mlp.w3.weight"], state[f"blocks.{i}.mlp.w3.bias"] = w3, torch.zeros(DIM)
    torch.save(state, tmp_path / "giant.pth")
    x = torch.randn(1, 5, DIM)
    torch.testing.assert_close(DinoV2(tmp_path / "giant.pth")._mlp(x, "blocks.0"), x, rtol=1e-4, atol=1e-4)


def test_missing_or_unfit_weights_are_explained(assembled, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(DiscliError) as raised:
        find_dinov2_weights()
    assert FILE_NAME in raised.value.message
    assert str(tmp_path / "hub" / "checkpoints" / FILE_NAME) in raised.value.hint
    torch.save(assembled.as_published() | {"register_tokens": torch.zeros(1)}, tmp_path / "reg.pth")
    with pytest.raises(DiscliError, match="with registers"):
        DinoV2(tmp_path / "reg.pth")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DiscliError, match="does not hold a DINOv2 network"):
        DinoV2(tmp_path / "other.pth")
