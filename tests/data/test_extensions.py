"""One source, one file; one autoencoder, one file: the README's examples, each written into a copy of the package."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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
def weights(archive) -> Path:
    """Six orthonormal components of squares of two by two."""
    folder = archive.with_name("weights")
    folder.mkdir()
    square = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    components = torch.linalg.qr(square)[0][:6].reshape(6, 3, 2, 2)
    save_file({"components": components.contiguous()}, folder / "pca.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(copy, archive, weights) -> Path:
    """Read by worker processes, encoded by the new autoencoder."""
    out = archive.with_name("data.h5")
    words = ["encode", archive, "--res", 8, "--codec", "pca", "--vae", weights, "--latent-dtype", "float32"]
    words += ["--out", out]
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


def test_they_encode(copy, archive, data, weights):
    code = """
import sys
import numpy as np
from safetensors.numpy import load_file
from discli.data.store import open_store
store = open_store(sys.argv[1])
images = np.load(sys.argv[2])["images"] / 127.5 - 1
components = load_file(sys.argv[3] + "/pca.safetensors")["components"]
squares = images.reshape(20, 4, 2, 4, 2, 3)
latents = np.einsum("nyixjc,kcij->nkyx", squares, components)
mirrored = np.einsum("nyixjc,kcij->nkyx", squares[:, :, :, ::-1, ::-1], components)
np.testing.assert_allclose(store.rows[:, 0, :6], latents, atol=1e-5)
np.testing.assert_allclose(store.rows[:, 1, :6], mirrored, atol=1e-5)
both = np.concatenate([latents, mirrored])
np.testing.assert_allclose(store.contract.codec.mean, both.mean((0, 2, 3)), atol=1e-5)
np.testing.assert_allclose(store.contract.codec.std, both.std((0, 2, 3)), rtol=1e-4)
print(store.labels.tolist())
"""
    assert json.loads(_run(copy, "-c", code, data, archive, weights)) == [k % 10 for k in range(20)]


def test_they_train_and_sample(copy, data, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    settings = [
        'data.codec={name="pca", channels=6, downsample=2}',
        "model.patch_size=1",
        "train.steps=2",
        "train.log_every=1",
    ]
    _run(copy, *arguments(recipe, data, tmp_path / "run", *settings))
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [0 < step["loss"] < 100 for step in steps] == [True, True]
    _discli(copy, "sample", tmp_path / "run", "-n", 4, "--out", tmp_path / "samples")
    assert len(list((tmp_path / "samples").rglob("*.png"))) == 4


def test_help_information_and_new_recipes_know_them(copy, data, tmp_path):
    assert "pca" in _discli(copy, "encode", "--help")
    described = json.loads(_discli(copy, "info", data, "--json"))
    codec = described["contract"]["codec"]
    assert {key: codec[key] for key in ("name", "channels", "downsample", "normalise")} == {
        "name": "pca",
        "channels": 6,
        "downsample": 2,
        "normalise": "channels",
    }
    assert "sample" in described["sheet_columns"]
    made = tmp_path / "mine.toml"
    _discli(copy, "recipe", "new", "mine", "--data", data, "--preset", "dis-s", "--out", made)
    assert "pca" in made.read_text()
