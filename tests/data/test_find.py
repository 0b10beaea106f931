"""Which data file is taken where none is named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from discli.data.encode import encode
from discli.data.find import data_for, data_for_study, find_data, look_for_data
from discli.recipe import load_recipe
from discli.runtime.errors import DiscliError
from tests.tiny_run import RECIPE


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def recipe(here):
    return load_recipe("tiny.toml")


def copy(digits: Path, to: Path, age: float = 0.0) -> Path:
    """A data file that was written ``age`` seconds ago."""
    to.write_bytes(digits.read_bytes())
    os.utime(to, (time.time() - age,) * 2)
    return to


def test_the_only_file_that_fits_is_taken_and_named(recipe, here, digits_file, capsys):
    copy(digits_file, here / "digits-8-rgb.h5", age=100)
    threes = digits_file.parent / "all" / "3"
    encode(threes, 8, codec="rgb", out=here / "newer-but-without-classes.h5", workers=0)
    capsys.readouterr()
    assert find_data([recipe]) == Path("digits-8-rgb.h5")
    assert "Data: digits-8-rgb.h5" in capsys.readouterr().err


def test_of_several_the_newest_is_taken_and_the_others_are_named(recipe, here, digits_file, capsys):
    copy(digits_file, here / "older.h5", age=100)
    copy(digits_file, here / "newest.h5", age=1)
    copy(digits_file, here / "oldest.h5", age=1000)
    assert find_data([recipe]) == Path("newest.h5")
    said = " ".join(capsys.readouterr().err.split())
    assert "newest.h5" in said
    assert "older.h5, oldest.h5" in said
    assert "--data" in said


def test_files_that_do_not_fit_are_each_named_with_the_reason(here, digits_file):
    copy(digits_file, here / "digits.h5")
    encode(digits_file.parent / "all", 8, codec="rgb", out=here / "part.h5", shard=(0, 2), workers=0)
    (here / "begun.h5.partial").write_bytes(b"")
    (here / "cut.h5").write_bytes(digits_file.read_bytes()[:20_000])
    with h5py.File(here / "foreign.h5", "w") as file:
        file["x"] = 1
    recipe = load_recipe("tiny.toml", ["model.num_classes=7"])
    fitting, others = look_for_data([recipe])
    assert fitting == []
    assert {path.name: key for path, reason in others.items() for key in REASONS if key in reason} == {
        "digits.h5": "10 classes",
        "part.shard-0-of-2.h5": "is part 0 of 2",
        "begun.h5": "is unfinished",
        "cut.h5": "is cut short",
        "foreign.h5": "did not write it",
    }
    with pytest.raises(DiscliError, match="no data file here that fits") as refused:
        find_data([recipe])
    assert "digits.h5" in refused.value.message
    assert "discli encode IMAGES/ --res 8" in refused.value.hint


REASONS = ("10 classes", "is part 0 of 2", "is unfinished", "is cut short", "did not write it")


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        (["data.resolution=256", 'data.codec="vae"'], "discli encode IMAGES/ --res 256,"),
        (["data.resolution=64", 'data.codec="vae"'], "discli encode IMAGES/ --res 64 --codec vae,"),
        (["data.resolution=128"], "discli encode IMAGES/ --res 128 --codec rgb,"),
        (
            ["data.resolution=64", 'data.codec={name="vae", vae="mine"}'],
            "discli encode IMAGES/ --res 64 --codec vae --vae mine,",
        ),
    ],
)
def test_without_any_the_command_is_named_that_makes_one(here, settings, command):
    with pytest.raises(DiscliError, match="no data file here") as refused:
        find_data([load_recipe("tiny.toml", settings)])
    assert command in refused.value.hint


def test_a_run_goes_on_with_the_file_that_it_began_with(recipe, here, digits_file):
    first = copy(digits_file, here / "first.h5", age=100)
    (here / "runs/tiny").mkdir(parents=True)
    description = {"discli_version": "0.1.0", "recipe": {}, "contract": {}, "data_file": str(first)}
    (here / "runs/tiny/run.json").write_text(json.dumps(description))
    copy(digits_file, here / "second.h5")
    assert data_for(recipe, None, Path("runs/tiny")) == first
    first.unlink()
    assert data_for(recipe, None, Path("runs/tiny")) == Path("second.h5")


def test_a_file_that_is_named_must_fit(recipe, here, digits_file):
    copy(digits_file, here / "fits.h5")
    other = load_recipe("tiny.toml", ["model.num_classes=7"])
    with pytest.raises(DiscliError, match="num_classes is 7"):
        data_for(other, Path("fits.h5"), Path("runs/tiny"))
    with pytest.raises(DiscliError, match="num_classes is 7"):
        data_for_study([recipe, other], Path("fits.h5"))


def test_a_study_takes_one_file_that_fits_all_its_cells(recipe, here, digits_file):
    copy(digits_file, here / "digits.h5")
    unconditional = load_recipe("tiny.toml", ["model.num_classes=0"])
    assert data_for_study([recipe, unconditional], None) == Path("digits.h5")
    with pytest.raises(DiscliError, match="no data file here that fits"):
        data_for_study([recipe, load_recipe("tiny.toml", ["model.num_classes=7"])], None)
    assert data_for_study([load_recipe("tiny.toml", ['data.file="mine.h5"'])], None) is None


@pytest.mark.parametrize(
    "command", [["train", "tiny"], ["train", "tiny.toml"], ["ablate", "skip-small"], ["info", "no"]]
)
def test_such_mistakes_do_not_wait_for_torch(command, here):
    """Seconds differ from machine to machine; what is imported does not."""
    program = f"""
import atexit, sys
from discli.cli import main
atexit.register(lambda: print("torch" in sys.modules))
sys.argv = ["discli", *{command!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("discli: ")
    assert done.stdout == "False\n"
