"""A metric and a feature network are one new file each: the examples of the README, in a copy of the package."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from discli.runtime.errors import DiscliError
from discli.runtime.plugins import find_plugin, plugins
from tests import warm
from tests.evaluation.cases import drawn_images
from tests.evaluation.test_evaluate import save_folder

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[2] / "discli"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "discli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "recipes", root / "recipes")
    readme = (PACKAGE / "evaluation" / "README.md").read_text()
    written = [
        (root / path).write_text(text)
        for path, text in re.findall(
            r"```python\n# (discli/evaluation/(?:metrics|features)/\w+\.py)\n(.*?)```", readme, re.S
        )
    ]
    assert len(written) == 2
    save_folder(root / "samples", drawn_images(60, 12, 0))
    save_folder(root / "ref", drawn_images(60, 12, 1))
    return root


def run(copy: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy), "DISCLI_CACHE": str(copy / "cache")}
    done = warm.run("-m", "discli", *arguments, env=environment, cwd=copy)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_metric_and_new_features_score(copy):
    flags = ["samples", "--ref", "ref", "--features", "colours", "--bootstrap", "0", "--json"]
    every = json.loads(run(copy, "eval-fid", *flags, "--metrics", "all"))
    assert every["features"] == "colours"
    assert {"FD (colours)", "KID (colours)", "brightness (colours)"} <= set(every["scores"])
    alone = json.loads(run(copy, "eval-fid", *flags, "--metrics", "brightness"))
    gap = float(drawn_images(60, 12, 0).double().mean() - drawn_images(60, 12, 1).double().mean())
    assert alone["scores"] == {"brightness (colours)": pytest.approx(gap, abs=1e-3)}
    assert alone["distance"] is None


def test_help_and_recipes_know_them(copy):
    shown = " ".join(run(copy, "eval-fid", "--help").split())
    assert "brightness" in shown
    assert "colours" in shown
    assert "colours" in run(copy, "recipe", "schema")
    resolved = run(copy, "recipe", "show", "quickstart", "--set", "train.score.features=colours", "--resolved")
    assert 'features = "colours"' in resolved


def test_built_in_ones_are_found_the_same_way_the_usual_one_first():
    assert list(plugins("evaluation/metrics", "fid")) == ["fid", "copies", "is", "kid", "prc", "recognised", "sfid"]
    assert list(plugins("evaluation/features", "inception")) == [
        "inception",
        "cifar10",
        "dinov2",
        "efficientnet-lite0",
        "random",
    ]
    for folder, first in (("evaluation/metrics", "fid"), ("evaluation/features", "inception")):
        for name, plugin in plugins(folder, first).items():
            assert plugin.summary
            assert plugin.load().name == name
    with pytest.raises(DiscliError) as raised:
        find_plugin("evaluation/metrics", "fid", "--metrics", "kdi")
    assert "kid" in raised.value.hint


def test_a_file_that_is_not_python_is_named_by_whoever_asks_for_it(copy):
    broken = copy / "discli" / "evaluation" / "metrics" / "broken.py"
    broken.write_text("def (")
    try:
        assert "broken" in run(copy, "eval-fid", "--help")
        with pytest.raises(AssertionError, match=r"metrics/broken\.py"):
            run(copy, "eval-fid", "samples", "--ref", "ref", "--features", "random", "--metrics", "broken")
    finally:
        broken.unlink()
