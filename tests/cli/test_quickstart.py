"""``discli quickstart`` with a recipe of a few steps: it ends with a look, and goes on wherever it was killed."""

import re
import shlex
import signal
from pathlib import Path

import pytest
import torch

from discli.cli.quickstart import quickstart, unpack_digits
from discli.data.encode import encode
from discli.data.store import open_store
from discli.evaluation.images import open_images
from discli.evaluation.neighbours import look_at_samples
from discli.runs.layout import is_run
from discli.runs.manifest import read_manifest
from discli.runtime.errors import DiscliError
from discli.sampling.sample import sample
from discli.training.train import train
from tests import warm
from tests.cli.commands import parse

SMALL = """
import discli.recipe, discli.runs.run
from discli.recipe import load_recipe
small = ["model.embed_dim=16", "model.depth=3", "train.steps=12", "train.batch_size=8", "train.checkpoint_every=4",
         "train.preview_every=6", "train.preview_count=4", "sample.steps=2", "eval.n=20", *MORE]
discli.recipe.load_recipe = discli.runs.run.load_recipe = lambda name, more=(): load_recipe(name, [*small, *more])
"""
# Where it is killed: what runs then, and the name below discli/ of what is to die at its n-th call.
DEATHS = {
    "unpacking": ("PIL.Image", "Image.save", 700),
    "encoding": ("discli.data.writer", "StoreWriter.finish", 1),
    "training": ("discli.training.state", "TrainingState.snapshot", 7),
    "the preview": ("discli.training.callbacks", "draw_preview", 1),
    "sampling": ("discli.sampling.writers", "PngFolder._write_one", 9),
    "looking": ("discli.evaluation.neighbours", "_rows", 2),
}
DYING = """
import os, sys
from functools import wraps
from importlib import import_module
module, path, nth = sys.argv[1:]
holder = import_module(module)
*owners, name = path.split(".")
for owner in owners:
    holder = getattr(holder, owner)
whole, calls = getattr(holder, name), []
@wraps(whole)
def deadly(*arguments, **named):
    calls.append(1)
    if len(calls) == int(nth):
        os.kill(os.getpid(), 9)
    return whole(*arguments, **named)
setattr(holder, name, deadly)
"""


@pytest.fixture
def small(monkeypatch):
    """The quickstart's recipe is of a few steps."""

    def use(*more: str) -> None:
        import discli.recipe
        import discli.runs.run

        monkeypatch.setattr(discli.recipe, "load_recipe", discli.recipe.load_recipe)
        monkeypatch.setattr(discli.runs.run, "load_recipe", discli.runs.run.load_recipe)
        exec(SMALL, {"MORE": more})

    use()
    return use


def test_it_ends_with_a_look_and_what_comes_next(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quickstart()
    said = capsys.readouterr().out
    row = re.search(r"^recognised as.*?([\d.]+)% +([\d.]+)%$", said, re.MULTILINE)
    assert row, said
    assert float(row[1]) < 60 < 95 < float(row[2]) <= 100  # twelve steps draw nothing
    assert len(open_store(Path("quickstart/digits.h5"))) == 1797
    assert Path("quickstart/samples.png").is_file()
    manifest = read_manifest(Path("quickstart/samples"))
    assert manifest is not None
    assert (manifest.n, manifest.finished) == (20, True)
    assert is_run(Path("runs/quickstart"))  # where the other commands look for it
    following = [shlex.split(line)[1:] for line in said.partition("Next")[2].splitlines()[1:]]
    assert [parse(words)[0] for words in following] == [("encode",), ("recipe", "new"), ("train",), ("sample",)]

    kept = [*tmp_path.glob("*/digits/*/*.png"), *tmp_path.glob("*/*.h5"), *tmp_path.glob("runs/**/*.safetensors")]
    made = {path: path.stat().st_mtime_ns for path in [*kept, *tmp_path.glob("runs/**/*.png")]}
    (tmp_path / "quickstart/samples/000003.png").unlink()
    quickstart()  # makes what is missing, and nothing else
    assert capsys.readouterr().out.splitlines()[:4] == said.splitlines()[:4]
    assert {path for path, at in made.items() if path.stat().st_mtime_ns != at} == set()


def test_what_another_recipe_made_there_stays(small, tmp_path, capsys):
    quickstart(tmp_path)
    before = (tmp_path / "runs/quickstart/run.json").read_bytes()
    samples = {path: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    small("model.embed_dim=18")
    quickstart(tmp_path)
    assert (tmp_path / "runs/quickstart/run.json").read_bytes() == before
    assert (tmp_path / "runs/quickstart-2/run.json").is_file()
    assert {path: path.read_bytes() for path in (tmp_path / "samples").iterdir()} == samples
    assert "samples-2" in capsys.readouterr().out


def test_a_corrupt_data_file_is_made_again(small, tmp_path):
    quickstart(tmp_path)
    (tmp_path / "digits.h5").write_bytes(b"no data")
    quickstart(tmp_path)
    assert len(open_store(tmp_path / "digits.h5")) == 1797


def test_another_folder_of_that_name_is_refused_and_stays(tmp_path):
    mine = tmp_path / "digits" / "a" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(DiscliError, match="other files"):
        quickstart(tmp_path)
    assert mine.read_bytes() == b"mine"
    unpack_digits(tmp_path / "fresh")
    (tmp_path / "fresh" / "3" / "0000.png").unlink()
    with pytest.raises(DiscliError, match="other files"):
        unpack_digits(tmp_path / "fresh")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The samples that every killed quickstart must end with."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    script = f"MORE = ()\n{SMALL}\nfrom pathlib import Path\nfrom discli.cli.quickstart import quickstart\n"
    assert warm.run("-c", f"{script}quickstart(Path({str(folder)!r}))").returncode == 0
    return folder / "samples"


@pytest.mark.slow
@pytest.mark.parametrize("moment", DEATHS)
def test_killed_at_any_moment_the_same_command_finishes(small, moment, undisturbed, tmp_path, capsys):
    script = f"MORE = ()\n{SMALL}\n{DYING}\nfrom pathlib import Path\nfrom discli.cli.quickstart import quickstart\n"
    script += f"quickstart(Path({str(tmp_path / 'out')!r}))"
    done = warm.run("-c", script, *DEATHS[moment])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "Took" not in done.stdout
    quickstart(tmp_path / "out")
    assert capsys.readouterr().out.count("recognised") == 1
    folders = tmp_path / "out/samples", undisturbed
    resumed, whole = ({path.name: path.read_bytes() for path in folder.glob("*.png")} for folder in folders)
    assert resumed == whole
    assert not list((tmp_path / "out").glob(".*.writing"))


@pytest.mark.slow
def test_half_of_its_steps_draw_digits_that_are_asked_for_and_differ(tmp_path):
    """The recipe as it is, at 600 steps: with min-snr weighting in it, under half of the digits are recognised."""
    unpack_digits(tmp_path / "digits")
    data = encode(tmp_path / "digits", 8, codec="rgb", out=tmp_path / "digits.h5", workers=0)
    steps = ["train.steps=600", "train.preview_every=0"]
    run = train("quickstart", data=data, out=tmp_path / "run", overrides=steps)
    samples = sample(run, 200, classes="balanced", steps=15, out=tmp_path / "samples")
    cpu = torch.device("cpu")
    look = look_at_samples(open_images(Path(samples), cpu), open_images(data, cpu))
    assert look.samples.recognised > 0.9
    assert look.samples.variety is not None
    assert 0.75 < look.samples.variety < 1
    assert look.samples.memorised < 0.05
