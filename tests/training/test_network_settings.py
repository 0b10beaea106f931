"""What a recipe may add to the paper's network, all of it at once: trained, resumed, sharded, exported."""

import pytest
import torch
from diffusers import DiffusionPipeline

import discli
from discli.sampling.export import export_diffusers
from tests.tiny_run import RECIPE, arguments, content, losses, together

pytestmark = pytest.mark.slow

NETWORK = """
patch_embed = {name = "overlapping", stem = 8}
grid_conv = "depthwise"
head_conv = {name = "residual", width = 8}
scan_order = "four-split"
mixer = ["mamba", {name = "attention", head_dim = 8}]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE.replace("num_classes = 10", f"num_classes = 10{NETWORK}"))
    return path


@pytest.fixture(scope="module")
def whole(recipe, digits_file, tmp_path_factory):
    return _train(recipe, digits_file, tmp_path_factory.mktemp("whole") / "run")


def _train(recipe, data, run, *settings):
    together(*arguments(recipe, data, run, *settings), processes=1)
    return run


def test_in_two_sessions_it_ends_with_the_same_bits_activations_kept_or_not(whole, recipe, digits_file, tmp_path):
    _train(recipe, digits_file, tmp_path / "run", "train.steps=6")
    _train(recipe, digits_file, tmp_path / "run", "train.activation_checkpointing=true")
    assert content(tmp_path / "run") == content(whole)


def test_sharded_over_two_processes_it_follows_the_same_losses(whole, recipe, digits_file, tmp_path):
    together(*arguments(recipe, digits_file, tmp_path / "run", "train.parallel=fsdp2"))
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-4)


def test_diffusers_draws_the_same_images(whole, tmp_path):
    model = discli.load(whole)
    assert [mixer.name for mixer in model.recipe.model.mixers] == ["mamba", "attention"]
    folder = export_diffusers(model, tmp_path / "tiny", [])
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipeline(3, seed=5, output_type="pt").images
    assert torch.equal(images, discli.sample(whole, 3, seed=5).pixels.float() / 255)
