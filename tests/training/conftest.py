"""What the tests of trainings share."""

import pytest

from tests.tiny_run import RECIPE


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path
