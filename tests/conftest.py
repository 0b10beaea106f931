"""Fixtures shared by every test: the optional folder of real images and golden cases."""

import os
from pathlib import Path

import pytest

# Before anything imports a hub client: a test that reaches the network is a broken test.
os.environ["HF_HUB_OFFLINE"] = "1"

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images, golden cases and a small VAE, kept beside the project; a user's clone has none."""
    if not _SHARED.is_dir():
        pytest.skip("no ../shared beside this clone")
    return _SHARED


_TINY_RECIPE = """
name = "tiny"
[model]
embed_dim = 16
depth = 3
patch_size = 2
num_classes = 10
[data]
resolution = 8
[train]
steps = 30
batch_size = 16
lr = 3e-3
preview_every = 0
tracker = "none"
[train.ema]
decay = 0.9
[sample]
steps = 5
cfg_scale = 1.5
model_batch = 4
"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, digits_file) -> Path:
    """A run of 30 steps: too few to draw a digit, enough to sample from."""
    from discli.training.train import train

    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(_TINY_RECIPE)
    return train(folder / "tiny.toml", data=digits_file, out=folder / "runs" / "tiny")


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory) -> Path:
    """200 of the package's digits, encoded as a user would."""
    from discli.cli.quickstart import unpack_digits
    from discli.data.encode import encode

    folder = tmp_path_factory.mktemp("digits")
    unpack_digits(folder / "all")
    for path in (folder / "all").glob("*/*.png"):
        if int(path.stem) >= 20:
            path.unlink()
    return encode(folder / "all", 8, codec="rgb", out=folder / "digits.h5", workers=0)
