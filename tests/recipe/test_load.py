"""Recipes: what is accepted, what is refused, and how the refusal reads."""

from pathlib import Path

import pytest

from discli.recipe import Recipe, load_recipe, shipped_recipes
from discli.runtime.errors import DiscliError

MINIMAL = """
name = "mine"
[model]
preset = "dis-s"
[data]
resolution = 32
[train]
steps = 100
"""


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads_by_name(name):
    assert load_recipe(name).name == name


def test_the_recipes_that_the_readme_names_are_shipped():
    expected = {"quickstart", "cifar10-dis-s-2", "dis-h-2-512", *(f"dis-{size}-2" for size in "sbmlh")}
    assert expected <= set(shipped_recipes())


def test_a_preset_fills_depth_and_width_and_what_is_written_wins(recipe_file):
    assert load_recipe(recipe_file).model.embed_dim == 368
    deeper = load_recipe(recipe_file, ["model.depth=13"])
    assert (deeper.model.embed_dim, deeper.model.depth) == (368, 13)


def test_overrides_reach_any_field(recipe_file):
    recipe = load_recipe(
        recipe_file,
        [
            "train.batch_size=64",
            "model.skip=add",
            'train.lr_schedule={name="cosine",warmup_steps=5}',
            "train.ema.decay=0.9",
        ],
    )
    assert recipe.train.batch_size == 64
    assert recipe.model.skip.name == "add"
    assert recipe.train.lr_schedule.warmup_steps == 5
    assert recipe.train.ema.decay == 0.9


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("model.depth=12", ["model.depth", "12", "odd"]),
        ("model.patch_size=5", ["model.patch_size", "5", "32", "multiple"]),
        ("model.skip=foo", ["model.skip", "'foo'", '"concat", "add", "none"']),
        ("model.conditioning=foo", ["model.conditioning", '"token", "adaln"']),
        ("model.embed_dim=33", ["model.embed_dim", "33", "even"]),
        ('model.depth="25"', ["model.depth", "'25'", "integer"]),
        ("train.batchsize=3", ["train.batchsize", "unknown key", "Did you mean batch_size?"]),
        ("model.skip.x=3", ["model.skip.x", "unknown key"]),
        ("train.lr=abc", ["train.lr", "'abc'", "number"]),
        ("train.steps=0", ["train.steps", "0", "greater than 0"]),
        ("sample.cfg_scale=2.0", ["sample.cfg_scale", "num_classes"]),
        ("sample.steps=2000", ["sample.steps", "2000", "1000"]),
        ("diffusion.objective=flow", ["sample.sampler", '"ddpm"', '"euler"', '"heun"']),
        ("model.preset=dis-x", ["model.preset", "'dis-x'", '"dis-s"']),
        ("train.lr", ["train.lr", "section.key=value"]),
        ('name="../up"', ["name", "'../up'"]),
    ],
)
def test_a_mistake_is_one_line_naming_file_key_found_and_allowed(recipe_file, override, names):
    with pytest.raises(DiscliError) as caught:
        load_recipe(recipe_file, [override])
    line = str(caught.value)
    assert "\n" not in line
    assert all(name in line for name in names), line
    if "=" in override:
        assert str(recipe_file) in line


def test_a_recipe_extends_another_and_replaces_choices_whole(recipe_file, tmp_path):
    recipe_file.write_text(MINIMAL + 'ema = { name = "power", stds = [0.05] }\n')
    child = tmp_path / "child.toml"
    child.write_text('extends = "mine.toml"\nname = "child"\n[train]\nbatch_size = 8\nema = { name = "constant" }\n')
    recipe = load_recipe(child)
    assert (recipe.name, recipe.train.steps, recipe.train.batch_size) == ("child", 100, 8)
    assert recipe.train.ema.name == "constant"


def test_none_takes_away_a_table_that_a_parent_recipe_has(recipe_file, tmp_path):
    (tmp_path / "child.toml").write_text('extends = "cifar10-fast"\ntrain.align = "none"\ntrain.route = "none"\n')
    without = load_recipe("cifar10-fast", ["train.align=none"])
    assert load_recipe("cifar10-fast").train.align is not None
    assert without.train.align is None
    assert load_recipe(tmp_path / "child.toml") == without
    again = load_recipe(tmp_path / "child.toml", ["train.align={weight=2}"])
    assert again.train.align.weight == 2


@pytest.mark.parametrize("named", ["quickstart", "quickstart.toml"])
def test_a_recipe_extends_a_shipped_one_by_its_name(named, tmp_path):
    (tmp_path / "mine.toml").write_text(f'extends = "{named}"\nname = "mine"\n[train]\nsteps = 7\n')
    recipe, shipped = load_recipe(tmp_path / "mine.toml"), load_recipe("quickstart")
    assert (recipe.name, recipe.train.steps) == ("mine", 7)
    assert recipe.model == shipped.model


def test_a_file_beside_it_comes_before_a_shipped_one_of_that_name(recipe_file, tmp_path):
    (tmp_path / "quickstart.toml").write_text(MINIMAL)
    recipe_file.write_text('extends = "quickstart.toml"\nname = "mine"\n')
    assert load_recipe(recipe_file).train.steps == 100


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not valid TOML"),
        ('extends = "gone.toml"', "does not exist"),
        ('extends = "quikstart"', "does not exist"),
        ('extends = "nowhere/quickstart"', "does not exist"),
        ('extends = "mine.toml"', "extends itself"),
        ("extends = 3", "extends"),
        ("\x00\xff", "is not text"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("x" + ".x" * 500 + " = 1", "nested too deeply"),
        ("x = " + "9" * 5000, "not valid TOML"),
    ],
)
def test_broken_files_are_named(recipe_file, text, says):
    recipe_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DiscliError, match=says) as caught:
        load_recipe(recipe_file)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.preset=[]", "model.preset: found \\[\\]"),
        ("train.lr=inf", "train.lr: found inf; input should be a finite number"),
        ("train.steps=9223372036854775808", "train.steps"),
        ("train.lr=" + "[" * 5000, "train.lr"),
        ("sample.steps=" + "x" * 5000, "sample.steps: found"),
        ("model.depth=99999999999", "model.depth: found 99999999999; input should be less than or equal to 1023"),
        ("data.resolution=1048576", "data.resolution: found 1048576"),
    ],
    ids=lambda text: text[:20],
)
def test_what_no_setting_can_be_is_named_in_a_line(recipe_file, override, says):
    with pytest.raises(DiscliError, match=says) as caught:
        load_recipe(recipe_file, [override])
    assert len(caught.value.message) < 1200


def test_a_setting_of_what_is_a_list_is_refused(recipe_file):
    settings = ['model.mixer=["mamba", "attention"]', "model.mixer.head_dim=8"]
    with pytest.raises(DiscliError, match="list"):
        load_recipe(recipe_file, settings)


def test_a_byte_order_mark_is_no_mistake(recipe_file):
    recipe_file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_recipe(recipe_file).name == "mine"


def test_a_path_that_cannot_be_one_is_not_there():
    with pytest.raises(DiscliError, match="No recipe at"):
        load_recipe("x" * 5000)


def test_an_unknown_name_suggests_the_near_one():
    with pytest.raises(DiscliError, match=r"Did you mean cifar10-dis-s-2\?"):
        load_recipe("cifar-dis-s-2")


def test_a_name_without_its_ending_is_the_file_beside_it(recipe_file):
    assert load_recipe(recipe_file.with_suffix("")) == load_recipe(recipe_file)


def test_a_run_needs_a_name_that_can_be_a_folder(recipe_file):
    with pytest.raises(DiscliError) as caught:
        load_recipe(recipe_file, ['name="my [best] run"'])
    assert caught.value.message.endswith("name: found 'my [best] run'.")
    assert caught.value.hint == "Allowed: letters, digits, . _ + and -."


def test_every_default_survives_a_round_trip_through_json(recipe_file):
    recipe = load_recipe(recipe_file)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
