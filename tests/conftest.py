"""Fixtures shared by every test: the optional folder of real pictures and golden cases."""

import os
from pathlib import Path

import pytest

# Before anything imports a hub client: a test that reaches the network is a broken test.
os.environ["HF_HUB_OFFLINE"] = "1"

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real pictures, golden cases and a small VAE, kept beside the project; a user's clone has none."""
    if not _SHARED.is_dir():
        pytest.skip("no ../shared beside this clone")
    return _SHARED
