"""How a trained network is called: the batch that fits a card, precision, compilation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import discli
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.sample import SampleSpec
from discli.runtime.errors import DiscliError
from discli.sampling.export import export_safetensors
from discli.sampling.load import LARGEST_MODEL_BATCH, as_sampled, find_model_batch, largest_batch
from discli.training.preview import draw_samples

GB = 10**9


@pytest.mark.parametrize(
    ("total", "fixed", "per_image", "expected"),
    [
        (80 * GB, 4 * GB, 1.0 * GB, 32),  # 48 - 4 = 44
        (8 * GB, 1 * GB, 0.4 * GB, 8),
        (80 * GB, 0, 0.1 * GB, LARGEST_MODEL_BATCH),
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
    full, half = (
        as_sampled(model.network, model.device, SampleSpec(precision=name))(x, t, y) for name in ("fp32", "bf16")
    )
    assert full.dtype == half.dtype == torch.float32
    assert 0 < float((full - half).abs().max()) < 0.1 * float(full.abs().max())


@pytest.mark.parametrize(
    "model",
    [
        {"mixer": "mamba", "scan_order": "zigzag", "skip": "gated"},
        {"mixer": "mamba2", "scan_order": "four", "conditioning": "adaln-zero"},
        {"mixer": "mamba3", "scan_order": "columns"},
        {"mixer": "hydra", "skip": "gated"},
        {"mixer": ["mamba", "attention"], "conditioning": "final-only", "scan_order": "four-split"},
        {"grid_conv": "depthwise", "patch_embed": "overlapping", "head_conv": "residual"},
    ],
)
def test_every_kind_of_network_is_built_from_a_file_as_it_was_trained(model, tiny_run, tmp_path):
    """By way of the meta device, where the walks of the scans must come out although no file holds them."""
    tree = discli.load(tiny_run).recipe.model_dump(mode="json")
    recipe = parse_recipe({**tree, "model": {"embed_dim": 16, "depth": 3, "num_classes": 10, **model}}, "test")
    torch.manual_seed(0)
    network = DiS.from_recipe(recipe)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    description = json.loads((tiny_run / "run.json").read_text())
    metadata = {"recipe": recipe.model_dump_json(), "contract": json.dumps(description["contract"])}
    save_file(network.state_dict(), tmp_path / "tiny.safetensors", metadata)

    trained = discli.load(tmp_path / "tiny.safetensors")
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([10, 900]), torch.tensor([0, 10])
    assert torch.equal(trained.network(x, t, y), network.eval()(x, t, y))
    whole = replace(trained, network=network.requires_grad_(False))
    pixels = discli.sample(trained, 4, seed=3).pixels
    assert torch.equal(pixels, discli.sample(whole, 4, seed=3).pixels)
    assert pixels.shape == (4, 3, 8, 8)

    preview = draw_samples(
        network.state_dict(), recipe, trained.load_codec(), trained.device, count=2, steps=recipe.sample.steps
    )
    assert sum(len(images) for images in preview) == 2


@pytest.mark.parametrize(
    ("place", "remedy"), [("00000030/ema.safetensors", "--checkpoint"), ("e.safetensors", "Export")]
)
def test_weights_of_another_network_come_with_a_remedy_for_where_they_lie(place, remedy, tiny_run, tmp_path):
    file = tmp_path / place
    export_safetensors(discli.load(tiny_run), file)
    with safe_open(file, "pt") as whole:
        metadata = whole.metadata()
    save_file({"pos_embed": torch.zeros(1)}, file, metadata=metadata)
    with pytest.raises(DiscliError, match="another architecture") as refused:
        discli.load(file)
    assert remedy in refused.value.hint


def test_a_damaged_checkpoint_that_is_asked_for_by_name_is_refused(tiny_run, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    checkpoint = run / "checkpoints" / "00000030"
    (checkpoint / "optimizer.safetensors").unlink()  # nobody samples with it
    assert discli.load(checkpoint).step == 30
    weights = checkpoint / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    for path, step in ((checkpoint, None), (run, 30)):
        with pytest.raises(DiscliError, match=r"ema\.safetensors does not match its hash"):
            discli.load(path, step=step)
