"""The worked example of .github/CONTRIBUTING.md: its diff is applied to a copy of the package, which then trains."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from discli.recipe import load_recipe
from discli.runtime.errors import DiscliError
from tests import readme
from tests.tiny_run import RECIPE, command

PAGE = readme.pages()[".github/CONTRIBUTING.md"]
[EXAMPLE] = readme.fenced(PAGE.partition("<!-- worked example -->")[2], "diff")


# A mixer that has no heads and no scan: each token hears the mean of all.
MIXER = '''
--- discli/recipe/model.py
+class MeanMixer(Spec):
+    """The mean of all tokens."""
+
+    name: Literal["mean"] = "mean"
+
+
-Mixer = Annotated[MambaMixer | Mamba2Mixer | AttentionMixer, *by_name("mamba")]
+Mixer = Annotated[MambaMixer | Mamba2Mixer | AttentionMixer | MeanMixer, *by_name("mamba")]
--- discli/model/mixer.py
+class Mean(torch.nn.Module):
+    mlp_ratio = 4
+
+    def __init__(self, model, paths):
+        super().__init__()
+        self.out_proj = torch.nn.Linear(model.embed_dim, model.embed_dim)
+
+    def forward(self, u):
+        return self.out_proj(u + u.mean(1, keepdim=True))
+
+    @staticmethod
+    def flops(model, L):
+        return {"out_proj": 2 * L * model.embed_dim**2}
+
+
-MIXERS: dict[str, type[Mixer]] = {"mamba": BidirectionalMamba, "mamba2": BidirectionalMamba2, "attention": Attention}
+MIXERS: dict[str, type[Mixer]] = {
+    "mamba": BidirectionalMamba, "mamba2": BidirectionalMamba2, "attention": Attention, "mean": Mean
+}
'''


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
    _apply(MIXER, root)
    return root


def test_it_is_as_short_as_it_says():
    added = [line[1:].strip() for line in EXAMPLE.splitlines() if line.startswith("+")]
    removed = [line for line in EXAMPLE.splitlines() if line.startswith("-") and not line.startswith("---")]
    code = [line for line in added if line and not line.startswith('"""')]
    assert len(code) - len(removed) == 10
    assert "in ten lines" in PAGE


def _run(arguments, with_example, folder):
    # A compiled scan would be compiled anew for a copy.
    environment = os.environ | {"PYTHONPATH": str(with_example), "DISCLI_SCAN": "reference"}
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=folder)


def test_a_mixer_goes_the_same_way(with_example, digits_file, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    settings = ["model.mixer.name=mean", "train.steps=1", "train.log_every=1"]
    done = _run(command(tmp_path / "tiny.toml", digits_file, tmp_path / "run", *settings), with_example, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["model"]["mixer"] == {"name": "mean"}
    info = [sys.executable, "-m", "discli", "info", "tiny.toml", "--set", "model.mixer.name=mean", "--json"]
    done = _run(info, with_example, tmp_path)
    assert done.returncode == 0, done.stderr
    by_part = json.loads(done.stdout)["flops"]["forward_by_part"]
    assert by_part["out_proj"] == 3 * 2 * 18 * 16**2
    assert "scan" not in by_part


def test_a_mixer_that_does_not_count_its_flops_is_named(with_example, tmp_path):
    source = (with_example / "discli/model/mixer.py").read_text()
    (tmp_path / "tiny.toml").write_text(RECIPE)
    try:
        (with_example / "discli/model/mixer.py").write_text(source.replace("def flops", "def floops"))
        arguments = [sys.executable, "-m", "discli", "info", "tiny.toml", "--set", "model.mixer.name=mean"]
        done = _run(arguments, with_example, tmp_path)
    finally:
        (with_example / "discli/model/mixer.py").write_text(source)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert '"mean"' in done.stderr


def test_it_trains(with_example, digits_file, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    settings = ["model.skip.name=scaled", "model.skip.share=0.25", "train.steps=1", "train.log_every=1"]
    train = command(tmp_path / "tiny.toml", digits_file, tmp_path / "run", *settings)
    done = _run(train, with_example, tmp_path)
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert trained["model"]["skip"] == {"name": "scaled", "share": 0.25}
    [step] = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert step["loss"] > 0


def test_without_it_there_is_no_such_mode():
    with pytest.raises(DiscliError, match="scaled"):
        load_recipe("quickstart", ["model.skip=scaled"])
