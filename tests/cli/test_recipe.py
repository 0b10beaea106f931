"""``discli recipe``, as it is typed."""

import json
import tomllib

import pytest

from discli.recipe import load_recipe, parse_recipe, shipped_recipes, shipped_studies
from discli.recipe.schema import recipe_schema
from tests.cli.commands import discli


def test_list():
    lines = discli("recipe", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    about = json.loads(discli("recipe", "list", "--json").stdout)
    assert about["quickstart"].startswith("A tiny class-conditional DiS")
    assert all(comment.split()[0] in line for comment, line in zip(about.values(), lines, strict=True))


def test_ablate_alone_lists_the_studies():
    done = discli("ablate")
    assert (done.returncode, [line.split()[0] for line in done.stdout.splitlines()]) == (0, list(shipped_studies()))


@pytest.mark.parametrize("flags", [[], ["--resolved"], ["--json"], ["--resolved", "--json"]])
def test_show(flags):
    overrides = ["--set", "train.steps=7", "--set", "model.skip=add"]
    shown = discli("recipe", "show", "dis-h-2-512", *overrides, *flags).stdout
    tree = json.loads(shown) if "--json" in flags else tomllib.loads(shown)
    assert "extends" not in tree
    assert parse_recipe(tree, "shown") == load_recipe("dis-h-2-512", ["train.steps=7", "model.skip=add"])
    assert ("weight_decay" in tree["train"]) == ("--resolved" in flags)


def test_new(digits_file, tmp_path):
    done = discli("recipe", "new", "mine", "--preset", "dis-m", "--data", str(digits_file), cwd=tmp_path)
    assert done.stdout == "mine.toml\n"
    assert load_recipe(tmp_path / "mine.toml").model.depth == 49
    again = discli("recipe", "new", "mine", "--res", "32", cwd=tmp_path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_schema(tmp_path):
    assert json.loads(discli("recipe", "schema").stdout) == recipe_schema()
    done = discli("recipe", "schema", "--out", "recipe.schema.json", cwd=tmp_path)
    assert done.stdout == "recipe.schema.json\n"
    assert json.loads((tmp_path / "recipe.schema.json").read_text()) == recipe_schema()
    assert "#:schema" in discli("recipe", "schema", "--help").stdout
    assert discli("recipe", "schema", "--out", "gone/x.json", cwd=tmp_path).returncode == 2
