"""The shipped recipes: each builds, has the size that it should, and says of itself what is true."""

import re

import pytest

from discli.cost.flops import forward_flops
from discli.cost.hardware import Hardware
from discli.model import empty_network
from discli.recipe import load_recipe, shipped_recipes, shipped_studies
from discli.runtime.console import format_seconds

# Of p = 2 on latents: published. The others follow: p = 4 instead has 96 - 48 D more, 512 px 768 D. Pixels
# from the published 32 px, p = 4, without classes: p = 2 has 84 D - 72 more, 64 px and p = 2 852 D - 72; a
# thousand classes and 64 px instead of 32 have 2 D D + 1196 D more, ten classes 2 D D + 14 D.
PARAMETERS = {
    "quickstart": 471_660,
    "digits": 527_119,
    "cifar10-dis-s-2": 28_488_008,
    "cifar10-dis-s-2-cond": 28_764_008,
    "celeba-64-dis-s-2": 28_770_632,
    "imagenet-64-dis-m-4": 231_488_352,
    "imagenet-64-dis-l-4": 407_348_320,
    "dis-s-2": 29_132_752,
    "dis-b-2": 121_163_552,
    "dis-m-2": 231_414_560,
    "dis-l-2": 407_249_952,
    "dis-h-2": 906_966_560,
    "dis-s-4": 29_115_184,
    "dis-b-4": 121_126_784,
    "dis-m-4": 231_377_792,
    "dis-l-4": 407_200_896,
    "dis-h-4": 906_892_928,
    "dis-h-2-512": 908_146_208,
    "cifar10-fast": 1_367_955,
    "cifar10": 1_496_979,
    "images-fast": 2_154_499,
    "imagenet-256-fast": 407_735_312,
}
RECIPES = {name: load_recipe(name) for name in shipped_recipes()}
OURS = {"quickstart", "digits", "cifar10", "cifar10-fast", "images-fast"}  # for a laptop
HEADERS = {name: path.read_text() for name, path in shipped_recipes().items() if name not in OURS}


def test_no_recipe_is_left_out_of_the_table():
    assert RECIPES.keys() == PARAMETERS.keys()


def test_the_first_line_which_lists_show_is_a_whole_sentence():
    first = {name: path.read_text().splitlines()[0] for name, path in (shipped_recipes() | shipped_studies()).items()}
    assert [name for name, line in first.items() if not line.startswith("# ") or line[-1] not in ".?"] == []


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_every_recipe_builds_with_as_many_parameters(name, count):
    assert sum(p.numel() for p in empty_network(RECIPES[name]).parameters()) == count
    assert RECIPES[name].name == name


@pytest.mark.parametrize("name", ["cifar10-fast", "images-fast"])
def test_what_a_recipe_of_our_own_says_of_itself_is_what_discli_computes(name):
    recipe, header = RECIPES[name], shipped_recipes()[name].read_text().split("extends")[0]
    flops = sum(forward_flops(recipe).values())
    sizes = f"{PARAMETERS[name] / 1e6:.1f} M parameters, {flops / 1e9:.1f} GFLOPs forward, {recipe.num_patches} patches"
    assert sizes in header.splitlines()[0]
    for promise in ("# Source: ", f"# Command: discli train {name} --data ", "# Measured result: "):
        assert promise in header


@pytest.mark.parametrize(("name", "text"), HEADERS.items())
def test_what_a_recipe_says_of_itself_is_what_discli_computes(name, text):
    recipe, header = RECIPES[name], text.split("extends")[0]
    flops = sum(forward_flops(recipe).values())
    first = header.splitlines()[0]
    assert f"{PARAMETERS[name] / 1e6:.1f} M parameters, {flops / 1e9:.1f} GFLOPs forward" in first
    assert f"{recipe.num_patches:,} patches" in first

    said = re.search(rf"discli info {name} --gpu (\w+) --gpus (\d+) --utilisation ([\d.]+)", header)
    machine = Hardware.of(said[1], gpus=int(said[2]), utilisation=float(said[3]))
    rate = machine.peak("bf16", tf32=True) * float(said[3]) / (3 * flops)
    duration = format_seconds(recipe.train.steps * recipe.train.batch_size / rate)
    assert f"computed and not measured: {duration} on {said[2]} {said[1]}" in header
    for promise in (
        "# Source: ",
        f"discli train {name} --data ",
        "# The paper's result: ",
        "# Measured result: not run",
    ):
        assert promise in header
    assert all(len(line) <= 120 for line in text.splitlines())
