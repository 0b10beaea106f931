"""The worked example of .github/CONTRIBUTING.md: its diff is applied to a copy of the package, which then trains."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from discli.recipe import load_recipe
from discli.runtime.errors import DiscliError
from tests import readme
from tests.tiny_run import RECIPE, command

PAGE = readme.pages()[".github/CONTRIBUTING.md"]
[EXAMPLE] = readme.fenced(PAGE.partition("<!-- worked example -->")[2], "diff")


def _apply(diff: str, root: Path) -> None:
    """A diff of one hunk a file, without line numbers: the lines that it shows of a file must be there once.

    A file of added lines alone is a new file.
    """
    for change in diff.split("--- ")[1:]:
        name, *lines = change.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
        if not before:
            assert not (root / name).exists()
            (root / name).write_text(after)
            continue
        text = (root / name).read_text()
        assert text.count(before) == 1, f"{name} has changed: fix the worked example in .github/CONTRIBUTING.md"
        (root / name).write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def with_example(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(readme.ROOT / "discli", root / "discli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(readme.ROOT / "recipes", root / "recipes")
    _apply(EXAMPLE, root)
    return root


def test_it_is_as_short_as_it_says():
    added = [line[1:].strip() for line in EXAMPLE.splitlines() if line.startswith("+")]
    removed = [line for line in EXAMPLE.splitlines() if line.startswith("-") and not line.startswith("---")]
    code = [line for line in added if line and not line.startswith('"""')]
    assert len(code) - len(removed) == 10
    assert "in ten lines" in PAGE


def test_it_trains(with_example, digits_file, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    settings = ["model.skip.name=scaled", "model.skip.share=0.25", "train.steps=1", "train.log_every=1"]
    train = command(tmp_path / "tiny.toml", digits_file, tmp_path / "run", *settings)
    # A compiled scan would be compiled anew for a copy.
    environment = os.environ | {"PYTHONPATH": str(with_example), "DISCLI_SCAN": "reference"}
    done = subprocess.run(train, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert trained["model"]["skip"] == {"name": "scaled", "share": 0.25}
    [step] = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert step["loss"] > 0


def test_without_it_there_is_no_such_mode():
    with pytest.raises(DiscliError, match="scaled"):
        load_recipe("quickstart", ["model.skip=scaled"])
