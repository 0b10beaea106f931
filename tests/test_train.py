"""Training as a user meets it: real data files, real processes, real kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from discli.errors import DiscliError
from discli.train import train
from discli.training.ema import posthoc_coefficients
from discli.training.run import read_log

RECIPE = """
name = "tiny"
[model]
embed_dim = 16
depth = 3
patch_size = 2
num_classes = 10
[data]
resolution = 8
horizontal_flip = true
[train]
steps = 12
batch_size = 8
lr = 1e-3
checkpoint_every = 4
keep_last = 3
log_every = 3
preview_every = 0
tracker = "none"
[sample]
steps = 4
model_batch = 4
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, digits_file) -> Path:
    """The finished run that every disturbed one must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.toml").write_text(RECIPE)
    return train(folder / "tiny.toml", data=digits_file, out=folder / "run")


def _command(recipe: Path, data: Path, run: Path, *settings: str) -> list[str]:
    flags = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "discli", "train", str(recipe), "--data", str(data), "--out", str(run), *flags]


def _content(run: Path, step: int = 12) -> dict[str, object]:
    folder = run / "checkpoints" / f"{step:08d}"
    tensors = {
        path.name: {k: v.numpy().tobytes() for k, v in load_file(path).items()} for path in folder.glob("*.safetensors")
    }
    return {
        "tensors": tensors,
        "metrics": (run / "metrics.jsonl").read_bytes(),
        "window": json.loads((folder / "state.json").read_text())["window"],
    }


def _losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run / "metrics.jsonl")]


def test_a_run_writes_checkpoints_metrics_and_what_it_was(undisturbed):
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["00000004", "00000008", "00000012"]
    lines = read_log(undisturbed / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert {"loss", "mse", "vb", "loss_q1", "loss_q4", "grad_norm", "lr", "images"} <= lines[0].keys()
    assert json.loads((undisturbed / "run.json").read_text())["recipe"]["name"] == "tiny"


def test_killed_again_and_again_it_ends_with_the_same_bits(undisturbed, recipe, digits_file, tmp_path):
    """SIGKILL at random moments, a checkpoint's writing among them, until the run gets through."""
    run, chance = tmp_path / "run", random.Random(4)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            _command(recipe, digits_file, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        checkpoints = run / "checkpoints"
        before = set(checkpoints.glob("*"))
        while process.poll() is None and kills < 3:
            # A temporary folder or a new checkpoint: the moments at which most could go wrong.
            now = set(checkpoints.glob("*"))
            if now - before:
                time.sleep(chance.random() * 0.02)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        if process.returncode == 0:
            break
    assert kills == 3
    assert _content(run) == _content(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_it_writes_a_checkpoint_and_exits_75(number, undisturbed, recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        _command(recipe, digits_file, run, "train.checkpoint_every=1000"), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not read_log(run / "metrics.jsonl"):
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate()
    if process.returncode == 0:
        pytest.skip("finished before the signal came")
    assert process.returncode == 75, errors
    assert f"{number.name}: checkpoint of step" in errors
    train(recipe, data=digits_file, out=run)
    assert _content(run) == _content(undisturbed)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_follow_the_loss_curve_of_one(parallel, undisturbed, recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    arguments = _command(recipe, digits_file, run, f"train.parallel={parallel}")[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, *arguments], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert _losses(run) == pytest.approx(_losses(undisturbed), rel=1e-4)


def test_accumulated_micro_batches_equal_the_large_batch(undisturbed, recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.micro_batch=2"])
    assert _losses(run) == pytest.approx(_losses(undisturbed), rel=1e-5)
    ours, theirs = (load_file(r / "checkpoints" / "00000004" / "model.safetensors") for r in (run, undisturbed))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(undisturbed, recipe, digits_file, tmp_path, capsys):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=8"])
    with (run / "checkpoints" / "00000008" / "optimizer.safetensors").open("r+b") as file:
        file.truncate(1000)
    train(recipe, data=digits_file, out=run)
    assert "optimizer.safetensors has 1000 bytes" in capsys.readouterr().err.replace("\n", " ")
    assert _content(run) == _content(undisturbed)


def test_not_finite_steps_are_skipped_logged_and_end_in_a_report(recipe, digits_file, tmp_path):
    """Weights that a healthy checkpoint's next step breaks: a learning rate of 1e30 from there on."""
    settings = ["train.skip_limit=3", "train.lr_schedule=cosine"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=[*settings, "train.steps=4"])
    description = json.loads((run / "run.json").read_text())
    description["recipe"]["train"]["lr_schedule"]["min_lr"] = 1e30
    (run / "run.json").write_text(json.dumps(description))
    with pytest.raises(DiscliError, match="after rolling back once") as caught:
        train(
            recipe, data=digits_file, out=run, overrides=[*settings, "train.lr_schedule.min_lr=1e30", "train.steps=40"]
        )
    assert caught.value.status == 1
    events = read_log(run / "events.jsonl")
    assert [e["event"] for e in events] == ["skipped"] * 3 + ["rolled back"] + ["skipped"] * 3
    assert len(events[0]["indices"]) == 8
    assert events[0]["indices"] != events[4]["indices"]
    weights = load_file(run / "checkpoints" / "00000004" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("data.resolution=16", "data.resolution is 16"),
        ("model.num_classes=5", "model.num_classes is 5"),
        ("data.codec=vae", "data.codec"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_the_first_step(setting, says, recipe, digits_file, tmp_path):
    with pytest.raises(DiscliError, match=says):
        train(recipe, data=digits_file, out=tmp_path / "run", overrides=[setting, "model.patch_size=1"])
    assert not (tmp_path / "run").exists()


def test_another_recipe_in_the_same_folder_is_refused_and_a_longer_one_goes_on(recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=4"])
    with pytest.raises(DiscliError, match=r"train\.lr = 0\.001"):
        train(recipe, data=digits_file, out=run, overrides=["train.lr=0.002"])
    train(recipe, data=digits_file, out=run, overrides=["train.steps=6"])
    assert [line["step"] for line in read_log(run / "metrics.jsonl")] == [3, 4, 6]


def test_a_folder_with_other_files_is_refused(recipe, digits_file, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(DiscliError, match="not a run's"):
        train(recipe, data=digits_file, out=tmp_path / "run")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_previews_show_noise_first_and_are_always_of_the_same_noise(recipe, digits_file, tmp_path):
    settings = ["train.preview_every=6", "train.preview_count=4"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings)
    again = train(recipe, data=digits_file, out=tmp_path / "again", overrides=settings)
    names = ["00000000.png", "00000006.png", "00000012.png"]
    assert sorted(p.name for p in (run / "previews").iterdir()) == names
    assert all((run / "previews" / n).read_bytes() == (again / "previews" / n).read_bytes() for n in names)


def test_power_ema_keeps_snapshots_that_rebuild_a_third_length(recipe, digits_file, tmp_path):
    settings = ["train.steps=40", "train.log_every=40"]
    power = 'train.ema={name="power",stds=[0.05,0.1],snapshot_every=4}'
    run = train(recipe, data=digits_file, out=tmp_path / "two", overrides=[*settings, power])
    direct = train(
        recipe, data=digits_file, out=tmp_path / "one", overrides=[*settings, 'train.ema={name="power",stds=[0.07]}']
    )
    files = sorted((run / "snapshots").glob("*.safetensors"))
    keys = [(int(file.stem.split("-")[0]), float(file.stem.split("-")[1])) for file in files]
    assert len(keys) == 20
    coefficients = posthoc_coefficients(keys, 40, 0.07)
    name = "blocks.0.mixer.in_proj.weight"
    rebuilt = sum(c * load_file(file)[name].double() for c, file in zip(coefficients, files, strict=True))
    wanted, stored = (
        load_file(r / "checkpoints" / "00000040" / "ema.safetensors")[name].double() for r in (direct, run)
    )
    assert (rebuilt - wanted).norm() < 0.3 * (stored - wanted).norm()


def test_verify_resume_reports_on_the_users_own_recipe(recipe, digits_file):
    done = subprocess.run(
        [*_command(recipe, digits_file, Path("unused"))[:-2], "--verify-resume"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(":")[0] for line in lines} == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "metrics.jsonl",
    }
    assert all(line.endswith("bit-identical") for line in lines)
