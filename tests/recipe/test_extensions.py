"""One extension, one file: the examples of the folders' READMEs, each written as a file into a copy of the package."""

import json
import os
import shutil
from pathlib import Path
from typing import Literal

import pytest

from discli.model.skips import Skip
from discli.recipe.choices import build, implementation, read_choices
from discli.recipe.spec import ChoiceSpec
from discli.runtime.errors import DiscliError
from tests import readme, warm
from tests.tiny_run import RECIPE, arguments

pytestmark = pytest.mark.slow

EXAMPLES = [
    code
    for room in ("model", "diffusion")
    for code in readme.fenced((readme.ROOT / "discli" / room / "README.md").read_text(), "python")
]
CHOICES = {
    "model.mixer": {"name": "shift", "reach": 2},
    "model.skip": {"name": "scaled", "share": 0.25},
    "model.conditioning": {"name": "split"},
    "model.scan_order": {"name": "diagonal"},
    "diffusion.objective": {"name": "difference"},
    "diffusion.weighting": {"name": "soft-min-snr", "gamma": 3.0},
    "diffusion.timesteps": {"name": "power", "exponent": 1.5},
    "sample.sampler": {"name": "renoise", "fresh": 0.5},
    "sample.cfg_schedule": {"name": "late", "start": 0.25},
}
SETTINGS = [f"{key}.{name}={json.dumps(value)}" for key, table in CHOICES.items() for name, value in table.items()]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package with a file more of each kind."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(readme.ROOT / "discli", root / "discli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(readme.ROOT / "recipes", root / "recipes")
    for code in EXAMPLES:
        file = root / code.splitlines()[0].removeprefix("# ")
        assert not file.exists()
        file.write_text(code)
    return root


@pytest.fixture(scope="module")
def trained(copy, digits_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(RECIPE)
    settings = [*SETTINGS, "train.steps=2", "train.log_every=1"]
    _run(copy, *arguments(folder / "tiny.toml", digits_file, folder / "run", *settings))
    return folder / "run"


def _run(copy: Path, *words: str) -> str:
    # A compiled scan would be compiled anew for a copy.
    environment = os.environ | {"PYTHONPATH": str(copy), "DISCLI_SCAN": "reference"}
    done = warm.run(*words, env=environment, cwd=copy)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _discli(copy: Path, *words: str) -> str:
    return _run(copy, "-m", "discli", *words)


def test_there_is_one_of_each_kind():
    folders = {str(Path(code.splitlines()[0].removeprefix("# ")).parent) for code in EXAMPLES}
    assert len(EXAMPLES) == len(folders) == len(CHOICES)


def test_they_train(trained):
    recipe = json.loads((trained / "run.json").read_text())["recipe"]
    for key, table in CHOICES.items():
        section, name = key.split(".")
        assert recipe[section][name] == table
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [0 < step["loss"] < 100 for step in steps] == [True, True]


def test_they_sample(copy, trained, tmp_path):
    shown = _discli(copy, "sample", str(trained), "-n", "4", "--cfg-scale", "2", "--out", str(tmp_path / "samples"))
    assert "samples" in shown
    assert len(list((tmp_path / "samples").rglob("*.png"))) == 4


def test_flops_schema_and_new_recipes_know_them(copy):
    """Flops by the mixer's own count, and as torch counts the same network."""
    code = """
import json, sys, torch
from torch.utils.flop_counter import FlopCounterMode
from discli.cost.flops import forward_flops
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.commented import commented_toml
from discli.recipe.schema import recipe_schema
choices = json.loads(sys.argv[1])
tree = {"name": "t", "model": {"embed_dim": 24, "depth": 3, "num_classes": 3}, "data": {"resolution": 8},
        "train": {"steps": 1}, "diffusion": {}, "sample": {"cfg_scale": 2.0}}
for key, table in choices.items():
    section, name = key.split(".")
    tree[section][name] = table
recipe = parse_recipe(tree, "t")
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    DiS.from_recipe(recipe)(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
schema = json.dumps(recipe_schema())
print(json.dumps([forward_flops(recipe), counter.get_total_flops(), schema, commented_toml({}, [])]))
"""
    flops, counted, schema, commented = json.loads(_run(copy, "-c", code, json.dumps(CHOICES)))
    assert flops["out_proj"] == 3 * 2 * 17 * 24 * 24
    assert sum(flops.values()) == counted
    assert "Each token and the one before it on every walk, through one layer." in schema
    for table in CHOICES.values():
        assert f'"{table["name"]}"' in schema
        assert table["name"] in commented


def test_help_and_completion_offer_them(copy):
    shown = " ".join(_discli(copy, "sample", "--help").split())
    assert shown.count("renoise") == 2  # it fits betas and flow
    assert ", late" in shown


def test_a_study_varies_them(copy, tmp_path, digits_file):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    study = 'name = "mixers"\nbase = "tiny.toml"\nseeds = [0]\nbudget.flops = 1e9\nscore = { features = "random" }\n'
    (tmp_path / "study.toml").write_text(study + '[axes]\nmodel.mixer = ["mamba", "shift"]\n')
    shown = _discli(copy, "ablate", str(tmp_path / "study.toml"), "--data", str(digits_file), "--dry-run",
                    "--out", str(tmp_path / "out"))  # fmt: skip
    assert "mixer=shift" in shown


# What a file can have wrong with it, and a word of the error.
GOOD = '''
from typing import Literal
from discli.recipe.spec import ChoiceSpec

class GoodSpec(ChoiceSpec):
    """Fine."""
    name: Literal["good"] = "good"
'''
WRONG = {
    "not Python": ("class (", "not valid Python"),
    "not text": ("\0", "not valid Python"),
    "its Spec cannot be run": (GOOD.replace('"good"\n', '"good"\n    x: missing = 1\n'), "NameError"),
    "no name": (GOOD.replace('name: Literal["good"] = "good"', "size: int = 1"), "no name"),
    "no docstring": (GOOD.replace('"""Fine."""', ""), "no docstring"),
    "torch in a Spec": (f"import torch\n{GOOD}    x: int = torch.tensor(1).item()\n", "torch"),
    "another room in a Spec": (f"from discli.model import DiS\n{GOOD}    x: object = DiS\n", "discli.model"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("discli.recipe.choices._PACKAGE", tmp_path / "discli")
    monkeypatch.setattr("discli.recipe.spec.read_before", {})
    (tmp_path / "discli" / "skips").mkdir(parents=True)
    return tmp_path / "discli" / "skips"


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_file_is_said_in_two_lines(wrong, folder):
    code, says = WRONG[wrong]
    (folder / "mine.py").write_text(code)
    with pytest.raises(DiscliError, match=says) as refused:
        read_choices("skips", ChoiceSpec, default="good")
    assert refused.value.message.startswith("discli/skips/mine.py: ")
    assert refused.value.hint
    assert "\n" not in refused.value.message + refused.value.hint


def test_a_name_that_is_taken_names_both_files(folder):
    (folder / "a.py").write_text(GOOD)
    (folder / "b.py").write_text(GOOD)
    with pytest.raises(DiscliError, match="good") as refused:
        read_choices("skips", ChoiceSpec, default="good")
    assert "skips/a.py" in refused.value.message
    assert "skips/b.py" in refused.value.message


def test_torch_constants_and_helpers_of_a_file_are_no_hindrance(folder):
    code = f"""
import torch
from torch import Tensor, nn
LEAST = 3
SCALE = torch.ones(1)
def least() -> int:
    return LEAST
{GOOD}
    size: int = least()

class _Base(ChoiceSpec):
    '''Of several.'''

class BetterSpec(_Base):
    '''More than fine.'''
    name: Literal["better"] = "better"

class Good(nn.Module):
    spec = GoodSpec
"""
    (folder / "mine.py").write_text(code)
    (folder / "_shared.py").write_text("class (")
    (folder / "helper.py").write_text("import no_such_module")
    choices = read_choices("skips", ChoiceSpec, default="good")
    assert choices["good"]().size == 3
    assert list(choices) == ["good", "better"]


class LonelySpec(ChoiceSpec):
    """Nothing is made of it."""


class HalfSpec(ChoiceSpec):
    """Something that is half done is made of it."""


class Half(Skip):
    spec = HalfSpec

    def forward(self, hidden, skipped):
        return hidden


class DeafSpec(ChoiceSpec):
    """What is made of it does not take its settings."""

    name: Literal["deaf"] = "deaf"
    share: float = 0.5


class Deaf(Half):
    spec = DeafSpec

    def flops(self, L):
        return 0


def test_a_class_that_does_not_take_its_settings_is_told_which():
    with pytest.raises(DiscliError, match=r"Deaf: .*share"):
        build(DeafSpec(), 16)


@pytest.mark.parametrize(("spec", "says"), [(LonelySpec, "LonelySpec"), (HalfSpec, "Half lacks flops")])
def test_a_spec_without_a_whole_class_is_told_what_is_missing(spec, says):
    with pytest.raises(DiscliError, match=says):
        implementation(spec)


def test_a_broken_file_does_not_take_the_help_away(tmp_path):
    """Commands that need recipes say in two lines what is wrong."""
    shutil.copytree(readme.ROOT / "discli", tmp_path / "discli", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "discli/diffusion/samplers/mine.py").write_text("class (")
    assert "ddim" in _discli(tmp_path, "sample", "--help")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = warm.run("-m", "discli", "recipe", "show", "quickstart", env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "discli/diffusion/samplers/mine.py: not valid Python" in done.stderr
