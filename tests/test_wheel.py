"""The wheel that ``pip wheel .`` makes: everything that discli needs is in it, and works without the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from discli import __version__
from discli.runtime.shipped import shipped_files
from tests.readme import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("hatchling")

ASSETS = (
    "digits.png",
    "digits.md",
    "cifar10.safetensors",
    "cifar10.md",
    "models/cifar10.safetensors",
    "models/cifar10.card.json",
    "models/digits.safetensors",
    "models/digits.card.json",
)
NOTICES = ("LICENSE", "discli/assets/digits.md", "discli/assets/cifar10.md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), *offline, "--wheel-dir", str(out)],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def test_its_name_says_the_version_that_discli_does(wheel):
    assert wheel.name == f"discli-{__version__}-py3-none-any.whl"


def test_what_is_in_it(unpacked):
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "discli").rglob("*.py")}
    # A study's trials go with its page, which links to them.
    recipes = {
        f"discli/shipped_recipes/{path.relative_to(ROOT / 'recipes')}"
        for end in ("toml", "csv")
        for path in ROOT.glob(f"recipes/**/*.{end}")
    }
    assets = {"discli/py.typed", *(f"discli/assets/{name}" for name in ASSETS)}
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "discli/reports/templates").iterdir()}
    kernels = {str(path.relative_to(ROOT)) for end in ("cu", "h") for path in (ROOT / "discli").rglob(f"*.{end}")}
    pages = {name for name in files if name.endswith("/README.md")}
    metadata = files - modules - recipes - assets - templates - kernels - pages
    assert files >= modules | recipes | assets | templates | kernels
    info = f"discli-{__version__}.dist-info"
    licences = {f"{info}/licenses/{name}" for name in NOTICES}
    assert metadata == licences | {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}


@pytest.mark.parametrize("asset", ASSETS)
def test_assets_are_whole(unpacked, asset):
    assert (unpacked / "discli/assets" / asset).read_bytes() == (ROOT / "discli/assets" / asset).read_bytes()


_LOAD = """
import json, discli
from discli.recipe import load_recipe, load_study, shipped_recipes, shipped_studies
print(json.dumps({
    "package": discli.__file__,
    "recipes": {name: load_recipe(name).name for name in shipped_recipes()},
    "studies": {name: len(load_study(name)[1]) for name in shipped_studies()},
}))
"""


def test_recipes_and_studies_load_without_the_checkout(unpacked, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(unpacked)}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    found = json.loads(python("-c", _LOAD))
    assert Path(found["package"]).is_relative_to(unpacked)
    assert found["recipes"] == {name: name for name in shipped_files()}
    assert found["studies"].keys() == shipped_files("ablations").keys()
    assert min(found["studies"].values()) > 1
    listed = python("-m", "discli", "recipe", "list").splitlines()
    assert [line.split()[0] for line in listed] == list(shipped_files())
