"""Sampling: images that depend on (seed, i) alone, interruptions, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from discli.errors import DiscliError
from discli.sample import file_name, sample
from discli.train import train

RECIPE = """
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
def run(tmp_path_factory, digits_file) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(RECIPE)
    return train(folder / "tiny.toml", data=digits_file, out=folder / "runs" / "tiny")


def _pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.fixture(scope="session")
def eleven(run, tmp_path_factory) -> Path:
    return sample(run, 11, seed=3, out=tmp_path_factory.mktemp("eleven") / "samples")


def test_pictures_sheet_and_manifest_are_written(eleven):
    assert list(_pictures(eleven)) == [file_name(i) for i in range(11)]
    with Image.open(eleven / file_name(0)) as image:
        assert (image.size, image.mode) == ((8, 8), "RGB")
    with Image.open(eleven.with_name("samples.png")) as sheet:
        assert sheet.width > 4 * 64
    manifest = json.loads((eleven / "manifest.json").read_text())
    assert manifest["finished"]
    assert (manifest["n"], manifest["seed"], manifest["steps"], manifest["nfe"]) == (11, 3, 5, 10)
    assert len(manifest["classes"]) == 11
    assert manifest["recipe"]["name"] == "tiny"
    assert manifest["contract"]["class_names"][3] == "3"


@pytest.mark.parametrize("n", [1, 5, 11, 13])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_image_i_is_the_same_bytes_whatever_n_and_batch_size(run, eleven, tmp_path, n, batch_size):
    ours = _pictures(sample(run, n, seed=3, batch_size=batch_size, out=tmp_path / "s"))
    theirs = _pictures(eleven)
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def test_another_seed_gives_other_pictures(run, eleven, tmp_path):
    other = _pictures(sample(run, 4, seed=4, out=tmp_path / "s"))
    assert all(other[name] != _pictures(eleven)[name] for name in other)


def test_guidance_steps_and_sampler_change_the_pictures(run, tmp_path):
    plain = _pictures(sample(run, 2, cfg_scale=1.0, out=tmp_path / "plain"))
    variants = [{"cfg_scale": 4.0}, {"cfg_scale": 1.0, "steps": 9}, {"cfg_scale": 1.0, "sampler": "ddim"}]
    for number, flags in enumerate(variants):
        assert _pictures(sample(run, 2, out=tmp_path / str(number), **flags)) != plain


def test_guidance_of_one_is_the_class_alone_and_costs_half(run, tmp_path):
    folder = sample(run, 1, cfg_scale=1.0, out=tmp_path / "s")
    assert json.loads((folder / "manifest.json").read_text())["nfe"] == 5


def test_killed_and_run_again_it_completes_what_is_missing(run, eleven, tmp_path):
    out = tmp_path / "s"
    command = [
        sys.executable,
        "-m",
        "discli",
        "sample",
        str(run),
        "-n",
        "11",
        "--seed",
        "3",
        "--batch-size",
        "4",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("0*.png"))) < 4:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / file_name(1)).unlink(missing_ok=True)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("00000[4-7].png")}
    sample(run, 11, seed=3, out=out)
    assert _pictures(out) == _pictures(eleven)
    if len(kept) == 4:
        assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())


def test_classes_by_name_and_number_are_taken_in_turn(run, tmp_path):
    folder = sample(run, 5, classes=["7", "3"], out=tmp_path / "s")
    assert json.loads((folder / "manifest.json").read_text())["classes"] == [7, 3, 7, 3, 7]


@pytest.mark.parametrize("given", ["10", "-1", "dog", ""])
def test_classes_that_do_not_exist_are_refused(run, tmp_path, given):
    with pytest.raises(DiscliError, match="no such class"):
        sample(run, 1, classes=[given], out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_with_other_things_is_refused_and_nothing_in_it_lost(run, tmp_path):
    out = tmp_path / "holiday"
    out.mkdir()
    (out / "000000.png").write_bytes(b"the beach")
    with pytest.raises(DiscliError, match="holds other files"):
        sample(run, 1, out=out)
    assert (out / "000000.png").read_bytes() == b"the beach"


def test_other_settings_into_the_same_folder_are_refused_unless_overwritten(run, tmp_path):
    out = sample(run, 3, out=tmp_path / "s")
    before = _pictures(out)
    with pytest.raises(DiscliError, match="--overwrite"):
        sample(run, 3, seed=1, out=out)
    assert _pictures(out) == before
    sample(run, 2, seed=1, out=out, overwrite=True)
    assert len(_pictures(out)) == 2


def test_without_a_run_the_newest_is_taken_and_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[1])
    sample(None, 1, out=tmp_path / "s")
    assert "Newest run: runs/tiny" in capsys.readouterr().err


def test_without_any_run_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiscliError, match="discli train"):
        sample(None, 1)


@pytest.mark.parametrize("damage", ["truncated", "pickle", "other-shapes", "no-recipe"])
def test_a_checkpoint_that_is_not_one_is_refused(run, tmp_path, damage):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    file = copy / "checkpoints" / "00000030" / "ema.safetensors"
    match damage:
        case "truncated":
            os.truncate(file, 2000)
        case "pickle":
            file.write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
        case "other-shapes":
            weights = {name: tensor[..., :1].contiguous() for name, tensor in load_file(file).items()}
            metadata = {"recipe": json.dumps(json.loads((run / "run.json").read_text())["recipe"])}
            save_file(weights, file, metadata=metadata)
        case "no-recipe":
            save_file({"w": torch.zeros(1)}, file)
    with pytest.raises(DiscliError) as caught:
        sample(copy, 1, out=tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_checkpoints_folder_can_be_given_without_its_run(run, eleven, tmp_path):
    lonely = tmp_path / "lonely"
    shutil.copytree(run / "checkpoints" / "00000030", lonely)
    assert _pictures(sample(lonely, 3, seed=3, out=tmp_path / "s"))[file_name(2)] == _pictures(eleven)[file_name(2)]
