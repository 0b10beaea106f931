"""A manifest is read through the class that wrote it."""

import json

import pytest

from discli.runs.manifest import read_manifest, write_manifest
from discli.runtime.errors import DiscliError
from discli.sampling.plan import plan_sampling


@pytest.fixture
def manifest(tiny_run):
    return plan_sampling(tiny_run, {"sampler": "ddim", "eta": 0.5}, classes="3,7").manifest(5, "png")


def test_it_comes_back_as_it_was_written(manifest, tmp_path):
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert (manifest.classes, manifest.class_choice, manifest.nfe) == ((3, 7, 3, 7, 3), (3, 7), 10)
    assert json.loads((tmp_path / "manifest.json").read_text())["sampler"] == {"name": "ddim", "eta": 0.5}


@pytest.mark.parametrize(
    ("change", "key"),
    [({"format_version": 2}, "format_version"), ({"n": 4}, "classes"), ({"recipe": {}}, "recipe"), ({"nfe": 0}, "nfe")],
)
def test_what_it_cannot_be_is_refused_by_its_key(manifest, tmp_path, change, key):
    content = manifest.model_dump(mode="json") | change
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DiscliError, match=key):
        read_manifest(tmp_path)


def test_other_folders_have_none(tmp_path):
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"name": "of a web app"}')
    assert read_manifest(tmp_path) is None
