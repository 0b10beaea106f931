"""Encode, train, sample and score on a few images, as the commands a user types."""

import json
import subprocess
import sys

from discli.cli.quickstart import unpack_digits
from discli.recipe import load_recipe

SMALL = [
    "model.embed_dim=16",
    "model.depth=3",
    "train.steps=8",
    "train.batch_size=8",
    "train.preview_every=4",
    "sample.steps=4",
]


def _discli(*arguments: object) -> str:
    done = subprocess.run([sys.executable, "-m", "discli", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
    assert len(list((tmp_path / "run" / "previews").glob("*.png"))) == 3
    assert len(list((tmp_path / "samples").glob("*.png"))) == 20
    assert "FD (random features), not comparable with FID" in json.dumps(scores)
    assert str(data) in json.dumps(scores), "the reference is what the run was trained on"


def test_the_quickstarts_digits_are_all_there(tmp_path):
    unpack_digits(tmp_path)
    assert len(list(tmp_path.glob("*/*.png"))) == 1797
    assert load_recipe("quickstart").model.num_classes == 10
