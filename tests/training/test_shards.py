"""Training on parts is training on the file that they would merge into."""

import json
from pathlib import Path

import pytest

from discli.data.encode import encode, merge
from discli.data.store import Store
from discli.recipe import load_recipe
from discli.runtime.errors import DiscliError
from discli.training.train import train
from tests.tiny_run import RECIPE, content, launch

HOLDOUT = ["data.holdout=0.1", "train.holdout_every=6"]


@pytest.fixture(scope="module")
def parts(digits_file, tmp_path_factory) -> Path:
    """Three parts of the digits, in a folder of their own."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "tiny.toml").write_text(RECIPE)
    for i in range(3):
        encode(Store(digits_file).contract.source, 8, codec="rgb", out=folder / "digits.h5", workers=0, shard=(i, 3))
    return folder


@pytest.fixture(scope="module")
def merged(parts, tmp_path_factory) -> Path:
    """The run over the merged file."""
    folder = tmp_path_factory.mktemp("merged")
    file = merge(folder / "digits.h5", parts / "*.h5")
    return train(parts / "tiny.toml", data=file, out=folder / "run", overrides=HOLDOUT)


def test_a_run_over_parts_that_move_meanwhile_is_the_run_over_the_merged_file(merged, parts, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "disk"
    recipe, named = parts / "tiny.toml", parts / "digits.shard-*-of-3.h5"
    train(recipe, data=named, out=run, overrides=[*HOLDOUT, "train.steps=6"])
    assert json.loads((run / "run.json").read_text())["data_file"] == str(named)
    elsewhere.mkdir()
    files = [file.rename(elsewhere / file.name) for file in sorted(parts.glob("*.h5"))]
    try:
        with pytest.raises(DiscliError, match="not there now"):
            train(run)
        (elsewhere / "listed.toml").write_text(
            RECIPE.replace("[data]", f"[data]\nfile = {json.dumps([str(file) for file in reversed(files)])}")
        )
        hidden = files[1].rename(elsewhere / "hidden")
        with pytest.raises(DiscliError, match="missing"):
            train(recipe, data=elsewhere / "*.h5", out=run, overrides=HOLDOUT)
        hidden.rename(files[1])
        train(elsewhere / "listed.toml", out=run, overrides=HOLDOUT)
    finally:
        for file in files:
            file.rename(parts / file.name)
    assert content(run) == content(merged)
    assert (run / "holdout.jsonl").read_bytes() == (merged / "holdout.jsonl").read_bytes()
    assert (
        json.loads((run / "run.json").read_text())["contract"]
        == (json.loads((merged / "run.json").read_text())["contract"])
    )


def test_a_whole_file_that_is_missed_or_another_is_refused_on_resume(digits_file, parts, tmp_path):
    """Of a pattern of whole files nobody knows how many there should be: the run does."""
    source = Path(Store(digits_file).contract.source)
    for half, kept in enumerate([range(10), range(10, 20)]):
        folder = tmp_path / str(half)
        for image in source.glob("*/*.png"):
            if int(image.stem) in kept:
                (folder / image.parent.name).mkdir(parents=True, exist_ok=True)
                (folder / image.parent.name / image.name).write_bytes(image.read_bytes())
        encode(folder, 8, codec="rgb", out=tmp_path / f"half-{half}.h5", workers=0)
    run = train(parts / "tiny.toml", data=tmp_path / "half-*.h5", out=tmp_path / "run", overrides=["train.steps=4"])
    (tmp_path / "half-1.h5").rename(tmp_path / "half-0.h5.kept")
    with pytest.raises(DiscliError, match="was started on data with"):
        train(run)
    (tmp_path / "half-0.h5").rename(tmp_path / "half-1.h5")
    (tmp_path / "half-0.h5.kept").rename(tmp_path / "half-0.h5")
    with pytest.raises(DiscliError, match="was started on data with source"):
        train(run)


def test_a_recipe_lists_files(parts):
    listed = load_recipe(parts / "tiny.toml", ['data.file=["a.h5", "/d/b.h5"]']).data.file
    assert str(listed) == "a.h5,/d/b.h5"
    with pytest.raises(DiscliError, match=r"data\.file"):
        load_recipe(parts / "tiny.toml", ["data.file=[]"])


@pytest.mark.slow
def test_several_processes_read_parts_as_they_read_one_file(merged, parts, tmp_path):
    out = {}
    for name, data in {"parts": parts / "digits.shard-*-of-3.h5", "merged": merged.parent / "digits.h5"}.items():
        run = tmp_path / name
        flags = ["--data", str(data), "--out", str(run), *(part for one in HOLDOUT for part in ("--set", one))]
        (done,) = launch("torchrun", "-m", "discli", "train", str(parts / "tiny.toml"), *flags)
        assert done.returncode == 0, done.stderr
        out[name] = content(run)
    assert out["parts"] == out["merged"]
