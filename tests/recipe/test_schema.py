"""The JSON Schema takes what the loader takes, refuses obvious mistakes, and explains every setting."""

import tomllib
from typing import Any

import pytest

from discli.recipe import Recipe, parse_recipe, shipped_recipes
from discli.recipe.load import read_tree
from discli.recipe.schema import recipe_schema
from discli.runtime.errors import DiscliError

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = recipe_schema()
MINIMAL = 'name = "m"\nmodel.preset = "dis-s"\ndata.resolution = 32\ntrain.steps = 1\n'


def complaints(tree: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(tree)]


def test_it_is_itself_valid():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", shipped_recipes().values(), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_as_written_and_merged(path):
    assert complaints(tomllib.loads(path.read_text())) == []
    assert complaints(read_tree(path)) == []


@pytest.mark.parametrize("path", shipped_recipes().values(), ids=lambda path: path.stem)
def test_with_every_default_written_out_too(path):
    recipe = Recipe.model_validate(read_tree(path))
    assert complaints(recipe.model_dump(mode="json", exclude_none=True)) == []


@pytest.mark.parametrize(
    "more",
    [
        'model.skip = "add"',
        'model.skip = { name = "add" }',
        "model.skip = {}",
        'diffusion.objective = "v"\nsample.sampler = { name = "euler" }',
        "diffusion.objective = { learn_sigma = false }",
        "model.embed_dim = 64\nmodel.depth = 3",
        'sample.guidance = { name = "autoguidance", checkpoint = "runs/weak" }',
        "sample.cfg_interval = { high = 3 }",
        'sample.model_batch = "auto"',
        "sample.model_batch = 8",
        "train.lr = 1",
        "train.betas = [0.9, 0.95]",
        'train.ema = { name = "power", stds = [0.05] }',
        'train.score = { every = 10, reference = "ref.npz" }',
        'train.align = "none"\ntrain.route = "none"\nmodel.lora = "none"\nsample.cfg_interval = "none"',
    ],
)
def test_what_the_loader_takes_is_valid(more):
    tree = tomllib.loads(MINIMAL + more)
    parse_recipe(tree, "here")
    assert complaints(tree) == []


@pytest.mark.parametrize(
    "wrong",
    [
        'model.skip = "concta"',
        'model.skip = { name = "concta" }',
        'model.skip = { name = "add", eta = 1 }',
        "model.skip = 3",
        'sample.guidance = "autoguidance"',
        "train.batchsize = 3",
        "trian.steps = 3",
        'train.lr = "fast"',
        "train.batch_size = 0",
        "train.batch_size = 1.5",
        "train.compile = 1",
        "train.betas = [0.9]",
        "train.class_dropout_prob = 1.5",
        'train.parallel = "fdsp2"',
        "sample.cfg_interval = { high = 3, hihg = 4 }",
        'train.align = "nothing"',
    ],
)
def test_obvious_mistakes_are_refused_by_both(wrong):
    tree = tomllib.loads(MINIMAL + wrong)
    with pytest.raises(DiscliError):
        parse_recipe(tree, "here")
    assert complaints(tree)


@pytest.mark.parametrize("line", MINIMAL.splitlines())
def test_what_is_needed_is_missed_unless_another_recipe_may_have_it(line):
    tree = tomllib.loads(MINIMAL.replace(line + "\n", ""))
    with pytest.raises(DiscliError):
        parse_recipe(tree, "here")
    assert complaints(tree)
    assert complaints(tree | {"extends": "parent.toml"}) == []


def test_a_child_may_refine_its_parents_choice(tmp_path):
    parent = MINIMAL + 'train.lr_schedule = { name = "cosine" }\nsample.cfg_interval = { high = 3 }\n'
    child = 'extends = "p.toml"\ntrain.lr_schedule = { min_lr = 1e-5 }\nsample.cfg_interval = { low = 1 }\n'
    (tmp_path / "p.toml").write_text(parent)
    (tmp_path / "c.toml").write_text(child)
    assert parse_recipe(read_tree(tmp_path / "c.toml"), "here").train.lr_schedule.min_lr == 1e-5
    assert complaints(tomllib.loads(child)) == []


SPECS = {"recipe": SCHEMA, **SCHEMA["definitions"]}


@pytest.mark.parametrize("name", SPECS)
def test_every_setting_is_described_and_has_the_default_of_its_spec(name):
    spec = SPECS[name]
    assert spec.get("description") or name == "recipe"
    for key, setting in spec["properties"].items():
        target = SCHEMA["definitions"].get(setting.get("$ref", "").rpartition("/")[2], {})
        assert setting.get("description") or target.get("description"), key
        assert {"type": "null"} not in setting.get("anyOf", ())
        if "default" in setting:
            jsonschema.Draft7Validator({**setting, "definitions": SCHEMA["definitions"]}).validate(setting["default"])


def test_choices_are_offered_with_their_meaning():
    short = SCHEMA["definitions"]["ModelSpec"]["properties"]["skip"]["anyOf"][0]
    meanings = dict(zip(short["enum"], short["x-taplo"]["docs"]["enumValues"], strict=True))
    assert meanings["none"] == "No long skip."


def test_it_refers_to_nothing_but_itself():
    refs = str(SCHEMA).split("'$ref': '")[1:]
    assert refs
    assert all(ref.startswith("#/definitions/") for ref in refs)


def test_editors_find_it_by_the_directive_and_the_loader_does_not_mind(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("#:schema recipe.schema.json\n" + MINIMAL)
    assert parse_recipe(read_tree(path), "here").name == "m"
