"""One source, one file; one autoencoder, one file: the README's examples, each written into a copy of the package."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import readme, warm
from tests.data.makers import pixels
from tests.tiny_run import RECIPE, arguments

pytestmark = pytest.mark.slow

EXAMPLES = readme.fenced((readme.ROOT / "discli/data/README.md").read_text(), "python")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package with a source and an autoencoder more."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(readme.ROOT / "discli", root / "discli", ignore=shutil.ignore_patterns("__pycache__"))
    for code in EXAMPLES:
        file = root / code.splitlines()[0].removeprefix("# ")
        assert not file.exists()
        file.write_text(code)
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    images = np.stack([pixels(k, 8, 8) for k in range(20)])
    path = tmp_path_factory.mktemp("arrays") / "images.npz"
    np.savez(path, images=images, labels=np.arange(20) % 10)
    return path


@pytest.fixture(scope="module")
def data(copy, archive) -> Path:
    """Read by worker processes, encoded by the new autoencoder."""
    out = archive.with_name("data.h5")
    words = ["encode", archive, "--res", 8, "--codec", "pooled", "--latent-dtype", "float32", "--out", out]
    assert _discli(copy, *words, "--workers", 2, "--device", "cpu").strip() == str(out)
    return out


def _run(copy: Path, *words: object) -> str:
    # A compiled scan would be compiled anew for a copy.
    environment = os.environ | {"PYTHONPATH": str(copy), "DISCLI_SCAN": "reference"}
    done = warm.run(*words, env=environment, cwd=copy)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _discli(copy: Path, *words: object) -> str:
    return _run(copy, "-m", "discli", *words)


def test_there_is_one_of_each():
    assert [Path(code.splitlines()[0]).parent.name for code in EXAMPLES] == ["sources", "autoencoders"]


def test_they_encode(copy, archive, data):
    code = """
import sys
import numpy as np
from discli.data.store import open_store
store = open_store(sys.argv[1])
images = np.load(sys.argv[2])["images"] / 127.5 - 1
pooled = images.reshape(20, 4, 2, 4, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
np.testing.assert_allclose(store.rows[:, 0], pooled, atol=1e-6)
np.testing.assert_allclose(store.rows[:, 1], pooled[..., ::-1], atol=1e-6)
np.testing.assert_allclose(store.contract.channel_mean, pooled.mean((0, 2, 3)), atol=1e-5)
np.testing.assert_allclose(store.contract.channel_std, pooled.std((0, 2, 3)), atol=1e-5)
print(store.labels.tolist())
"""
    assert json.loads(_run(copy, "-c", code, data, archive)) == [k % 10 for k in range(20)]


def test_they_train_and_sample(copy, data, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    settings = ['data.codec="pooled"', "model.patch_size=1", "train.steps=2", "train.log_every=1"]
    _run(copy, *arguments(recipe, data, tmp_path / "run", *settings))
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [0 < step["loss"] < 100 for step in steps] == [True, True]
    _discli(copy, "sample", tmp_path / "run", "-n", 4, "--out", tmp_path / "samples")
    assert len(list((tmp_path / "samples").rglob("*.png"))) == 4


def test_help_information_and_new_recipes_know_them(copy, data, tmp_path):
    assert "pooled" in _discli(copy, "encode", "--help")
    described = json.loads(_discli(copy, "info", data, "--json"))
    assert described["contract"]["codec"] == {"name": "pooled", "channels": 3, "downsample": 2}
    assert "sample" in described["sheet_columns"]
    made = tmp_path / "mine.toml"
    _discli(copy, "recipe", "new", "mine", "--data", data, "--preset", "dis-s", "--out", made)
    assert "pooled" in made.read_text()
