"""Encode, train, sample and score on a few images, as the commands a user types."""

import json

import pytest

from discli.cli.quickstart import unpack_digits
from discli.data.store import open_store
from discli.recipe import load_recipe
from tests import warm

SMALL = [
    "model.embed_dim=16",
    "model.depth=3",
    "train.steps=8",
    "train.batch_size=8",
    "train.preview_every=4",
    "sample.steps=4",
]


def _discli(*arguments: object) -> str:
    done = warm.run("-m", "discli", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_from_an_image_folder_to_a_score(tmp_path):
    images = tmp_path / "digits"
    unpack_digits(images)
    for path in images.glob("*/*.png"):
        if int(path.stem) >= 8:
            path.unlink()
    (images / "3" / "broken.png").write_bytes(b"not an image")

    data = _discli("encode", images, "--res", 8, "--out", tmp_path / "digits.h5")
    settings = [part for setting in SMALL for part in ("--set", setting)]
    run = _discli("train", "quickstart", "--data", data, "--out", tmp_path / "run", *settings)
    samples = _discli("sample", run, "-n", 20, "--cfg-scale", 2, "--classes", "0,1,2", "--out", tmp_path / "samples")
    scores = json.loads(_discli("eval-fid", samples, "--features", "random", "--json", "--bootstrap", 0))

    assert "broken.png" in (tmp_path / "digits.skipped.txt").read_text()
    assert len(list((tmp_path / "run" / "previews").glob("*.png"))) == 2
    assert len(list((tmp_path / "samples").glob("*.png"))) == 20
    assert "FD (random features), not comparable with FID" in json.dumps(scores)
    assert str(data) in json.dumps(scores), "the reference is what the run was trained on"


def test_the_quickstarts_digits_are_all_there(tmp_path):
    unpack_digits(tmp_path / "digits")
    assert len(list(tmp_path.glob("digits/*/*.png"))) == 1797
    assert load_recipe("quickstart").model.num_classes == 10


def test_the_quickstart_killed_while_it_unpacks_the_last_digit_has_them_all_the_next_time(tmp_path):
    program = f"""
import os
from pathlib import Path
from PIL import Image
import discli.cli.quickstart
save = Image.Image.save
def save_or_die(image, path, *rest, **options):
    save(image, path, *rest, **options)
    if Path(path).parent.name == "9" and Path(path).name == "0001.png":
        os._exit(9)
Image.Image.save = save_or_die
discli.cli.quickstart.quickstart(Path({str(tmp_path / "out")!r}))
"""
    assert warm.run("-c", program, cwd=tmp_path).returncode == 9
    # Again, to the end of encoding; what comes after is not asked for here.
    program = f"""
from pathlib import Path
import discli.cli.quickstart, discli.training.train
def stop(*_, **__):
    raise SystemExit(7)
discli.training.train.train = stop
discli.cli.quickstart.quickstart(Path({str(tmp_path / "out")!r}))
"""
    assert warm.run("-c", program, cwd=tmp_path).returncode == 7
    assert len(open_store(tmp_path / "out" / "digits.h5")) == 1797
