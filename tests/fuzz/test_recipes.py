"""Whatever stands in a recipe or a study: it is one, or a line says what is wrong with it."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from discli.recipe import Recipe, load_recipe, load_study, parse_recipe, shipped_recipes
from discli.recipe.toml import to_toml
from discli.recipe.trials import shipped_studies
from tests.fuzz.damage import ODD, answer, damaged, examples, nested, spoiled

MINIMAL = 'name = "m"\n[model]\nembed_dim = 8\ndepth = 3\n[data]\nresolution = 8\n[train]\nsteps = 1\n'
TREE = load_recipe("cifar10-dis-s-2-cond").model_dump(mode="json", exclude_none=True)
STUDIES = {name: path.read_bytes() for name, path in shipped_studies().items()}
FILES = [path.read_bytes() for path in shipped_recipes().values()]

KEYS = st.sampled_from(
    ["name", "model", "data", "train", "sample", "diffusion", "eval", "preset", "skip", "embed_dim", "codec", "extends",
     "sampler", "mixer", "head_dim", "ema", "stds", "steps", "file", "", "a b", "é", "x.y", "\u2028", "[/x]"]
)  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(ODD)
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.sampled_from(["dis-s", "concat", "vae", "mamba2", "cosine", "power", "autoguidance", "flow"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture
def recipe_file(tmp_path):
    def write(content: bytes | str) -> Path:
        path = tmp_path / "r.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    return write


def check(recipe: Recipe | None) -> None:
    """What a recipe promises whoever is given one."""
    if recipe is None:
        return
    assert recipe.num_patches >= 1
    assert recipe.out_channels >= recipe.in_channels >= 1
    tree = recipe.model_dump(mode="json")
    assert parse_recipe(tree, "again") == recipe, "what a run writes down is not what it was told"
    assert all(math.isfinite(value) for value in _numbers(tree)), "a number that JSON does not have"


def _numbers(tree: Any):
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _numbers(value)
    elif isinstance(tree, float):
        yield tree


@examples(100)
@given(st.sampled_from(FILES).flatmap(damaged) | st.binary(max_size=200) | st.text(max_size=200))
@example(b"\xef\xbb\xbf" + MINIMAL.encode())
@example(MINIMAL.replace("\n", "\r\n"))
@example(MINIMAL.replace("\n", "\r"))
@example(MINIMAL + "lr = " + nested())
@example(MINIMAL + "a" + ".a" * 3_000 + " = 1")
@example(MINIMAL + "lr = " + "9" * 5000)
@example(MINIMAL + "lr = " + "{a=" * 5000 + "1" + "}" * 5000)
@example(MINIMAL + 'x = "\x00"')
@example(MINIMAL + 'x = "\ud800"')
@example(MINIMAL.replace("embed_dim = 8", "embed_dim = 1_000_000_000_000_000_000\nmixer = {name='mamba2', head_dim=3}"))
def test_any_text(recipe_file, content):
    path = recipe_file(content)
    check(answer(lambda: load_recipe(path)))
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


@examples(200)
@given(spoiled(TREE) | VALUES)
@example({"model": {"preset": []}})
@example(TREE | {"train": {**TREE["train"], "lr": float("inf")}})
@example(TREE | {"data": {**TREE["data"], "file": "a\nb"}})
@example(TREE | {"\ud800": 1})
@example(TREE | {"[1;31m\n": 1})
def test_any_tree(tree):
    check(answer(lambda: parse_recipe(tree, "here")))


@examples(40)
@given(st.sampled_from([*ODD, "r.toml", ".", "..", "/", "quickstart", "a\x00b", "\udc80", "no\nsuch"]))
def test_any_extends(recipe_file, value):
    try:
        line = to_toml({"extends": value})
        path = recipe_file(line + MINIMAL)
    except UnicodeError:
        return
    check(answer(lambda: load_recipe(path)))


def test_circles_and_long_chains_of_extends(tmp_path):
    for here, there in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{here}.toml").write_text(f'extends = "{there}.toml"\n')
    assert answer(lambda: load_recipe(tmp_path / "a.toml")) is None
    for number in range(2000):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    (tmp_path / "2000.toml").write_text(MINIMAL)
    check(answer(lambda: load_recipe(tmp_path / "0.toml")))


SETTINGS = st.one_of(
    st.text(max_size=40),
    st.tuples(st.sampled_from(["train.lr", "model.skip", "model.skip.name", "sample.sampler.eta", "name", "model",
                               "data.codec", "data.file", "\udc80", "train..lr", "extends", "model.preset"]),
              st.text(max_size=20) | st.sampled_from([repr(odd) for odd in ODD] + [str(odd) for odd in ODD])
              ).map("=".join),
)  # fmt: skip


@examples(100)
@given(st.lists(SETTINGS, min_size=1, max_size=3))
@example(["train.lr=" + nested()])
@example(["train.lr=" + "9" * 5000])
@example(["a" + ".a" * 3_000 + "=1"])
@example(["\udc80=1"])
@example(["data.file=\udc80"])
@example(["data.file=a\nb"])
@example(["name=a\nb"])
@example(["model.preset=[]"])
@example(["train.lr=1\n[model]\ndepth=5"])
def test_any_setting(overrides):
    check(answer(lambda: load_recipe("quickstart", overrides)))


@examples(60)
@given(st.data())
def test_any_study(recipe_file, data):
    path = recipe_file(data.draw(st.sampled_from(list(STUDIES.values())).flatmap(damaged)))
    answer(lambda: load_study(path))


STUDY = 'name = "s"\nbase = "quickstart"\nbudget.steps = 3\n'


@pytest.mark.parametrize(
    "more",
    [
        "axes.x = [1979-05-27, 07:32:00]",
        "axes.train.lr = [nan, inf, 1e-3]",
        'axes."a/../../b" = ["../../up"]',
        'points = [{name = "../../up", x = 1}]',
        'points = [{name = "", x = 1}]',
        "points = [{name = 3, x = 1}]",
        'points = [{name = "a\\u0000b", x = 1}]',
        'points = [{name = "a\\nb", x = 1}]',
        'points = [{name = {x = 1}, train = "no table"}]',
        'points = [{name = "a"}, {name = "a"}]',
        "points = [1]",
        "axes.a.b.c = 3",
        'set = {name = "other", train = 3}\naxes.x = [1]',
        "seeds = [-1]\naxes.x = [1]",
        "seeds = [" + "9" * 400 + "]\naxes.x = [1]",
        "axes.x = [" + nested(500) + "]",
        "axes.x" + ".x" * 2_000 + " = [1]",
        "points = [{x" + ".x" * 2_000 + " = 1}]",
        "axes = {" + ", ".join(f"x{n} = [1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(12)) + "}",
    ],
)
def test_odd_studies(recipe_file, more):
    path = recipe_file(STUDY + more)
    found = answer(lambda: load_study(path))
    for trial in found[1] if found else ():
        assert Path("trials", trial.name).resolve().is_relative_to(Path("trials").resolve()), "a trial beside its study"
        check(answer(lambda trial=trial: trial.recipe(3)))


@examples(60)
@given(st.sampled_from(["steps", "images", "tokens", "flops"]), st.sampled_from(ODD))
def test_any_budget(recipe_file, kind, value):
    if isinstance(value, str) and not value.isprintable():
        return
    line = to_toml({"budget": {kind: value}})
    path = recipe_file('name = "s"\nbase = "quickstart"\naxes.model.patch_size = [2]\n' + line)
    found = answer(lambda: load_study(path))
    if found:
        study, [trial, *_] = found
        assert study.budget.steps_of(trial.recipe(1), 1e9) >= 1
        assert study.budget.describe()
