"""Training as a user meets it: real data files, real processes, real kills."""

import json
import random
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from discli.data.store import Store
from discli.runs.logs import read_log
from discli.runtime.console import progress
from discli.runtime.errors import DiscliError
from discli.training.engine import Engine
from discli.training.train import train
from tests import warm
from tests.data.files import VAE, contract, some_rows, write_store
from tests.tiny_run import RECIPE, arguments, content, launch, losses, together

CODEC = """
horizontal_flip = false
codec = {name = "vae", channels = 2, downsample = 2}
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


def test_a_run_writes_checkpoints_metrics_and_what_it_was(undisturbed):
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["00000004", "00000008", "00000012"]
    lines = read_log(undisturbed / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert {"loss", "mse", "vb", "loss_q1", "loss_q4", "grad_norm", "lr", "images"} <= lines[0].keys()
    assert json.loads((undisturbed / "run.json").read_text())["recipe"]["name"] == "tiny"


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(undisturbed, recipe, digits_file, tmp_path):
    """SIGKILL at random moments, a checkpoint's writing among them, until the run gets through."""
    run, chance = tmp_path / "run", random.Random(4)
    kills = 0
    for _ in range(40):
        process = warm.Process(*arguments(recipe, digits_file, run))
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
        done = process.wait()
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if process.returncode == 0:
            break
    assert kills == 3
    assert content(run) == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_it_writes_a_checkpoint_and_exits_75(number, undisturbed, recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    process = warm.Process(*arguments(recipe, digits_file, run, "train.checkpoint_every=1000"))
    while process.poll() is None and not read_log(run / "metrics.jsonl"):
        time.sleep(0.001)
    process.send_signal(number)
    done = process.wait()
    if done.returncode == 0:
        pytest.skip("finished before the signal came")
    assert done.returncode == 75, done.stderr
    assert f"{number.name}: checkpoint of step" in done.stderr
    train(recipe, data=digits_file, out=run)
    assert content(run) == content(undisturbed)


LONG_PREVIEW = ["train.preview_every=6", "train.preview_count=400", "sample.steps=50"]
SHORT_PREVIEW = ["train.preview_count=4", "sample.steps=4"]
LONG_SCORE = ['train.score={every=6,n=50000,features="random",sampling_steps=50}']


@pytest.mark.slow
@pytest.mark.parametrize(
    ("look", "quicker", "step", "made"),
    [
        (LONG_PREVIEW, SHORT_PREVIEW, 6, "previews/*"),
        ([*LONG_PREVIEW, "train.preview_every=1000"], SHORT_PREVIEW, 12, "previews/*"),
        ([*LONG_PREVIEW, "train.preview_first=true"], SHORT_PREVIEW, 0, "previews/*"),
        (LONG_SCORE, ["train.score.n=16"], 6, "scores.jsonl"),
    ],
    ids=["preview", "last preview", "first preview", "score"],
)
def test_asked_to_stop_while_images_are_drawn_it_gives_them_up_at_once(
    look, quicker, step, made, undisturbed, recipe, digits_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    settings = ["train.checkpoint_every=1000", *look]
    process = warm.Process(*arguments(recipe, digits_file, run, *settings))
    while process.poll() is None and max([0, *(line["step"] for line in read_log(run / "metrics.jsonl"))]) < step:
        time.sleep(0.001)
    while step == 0 and "Drawing 400 images of step 0" not in process.stderr():
        assert process.poll() is None, process.stderr()
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    done = process.wait()
    assert time.monotonic() - started < 15  # a second where nobody else is at work; drawing takes a minute
    assert done.returncode == 75, done.stderr
    assert [p.name for p in run.glob("checkpoints/*")] == ([f"{step:08d}"] if step else [])
    found = list(run.glob(made))
    assert not [path for path in found if path.stat().st_size]

    train(recipe, data=digits_file, out=run, overrides=[*look, *quicker])
    assert content(run) == content(undisturbed)
    if made == "scores.jsonl":
        assert [line["step"] for line in read_log(run / made)] == [6, 12]
    else:
        assert f"{step:08d}.png" in [path.name for path in run.glob(made)]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "parallel"), [("torchrun", "fsdp2"), ("accelerate", "ddp"), ("slurm", "ddp")])
def test_two_processes_follow_the_loss_curve_of_one(how, parallel, undisturbed, recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    for done in launch(how, *arguments(recipe, digits_file, run, f"train.parallel={parallel}")):
        assert done.returncode == 0, done.stderr
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "processes"), [("fsdp2", 2), ("ddp", 3)])
def test_a_run_of_several_processes_in_two_sessions_ends_with_the_same_bits(
    parallel, processes, recipe, digits_file, tmp_path
):
    runs = {"one": [12], "two": [6, 12]}
    for name, sessions in runs.items():
        for steps in sessions:
            settings = [f"train.parallel={parallel}", f"train.steps={steps}", "train.batch_size=12"]
            train = arguments(recipe, digits_file, tmp_path / name, *settings)
            said = together(*train, processes=processes)
    assert "resuming at step 6" in said
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
def test_one_sample_that_is_not_a_number_is_skipped_by_all_and_named(tmp_path):
    promise = contract(codec=VAE, dtype="float32", resolution=8, flip_stored=False)
    rows = some_rows(32, promise)
    rows[11, :, 0, 0] = np.nan
    data = write_store(tmp_path / "latents.h5", rows, promise)
    recipe = tmp_path / "latents.toml"
    recipe.write_text(RECIPE.replace("num_classes = 10", "").replace("horizontal_flip = true", CODEC))
    together(*arguments(recipe, data, tmp_path / "run", "train.steps=4", "train.log_every=1"))
    (event,) = read_log(tmp_path / "run" / "events.jsonl")
    assert event["event"] == "skipped"
    assert 11 in event["indices"]
    steps = [line["step"] for line in read_log(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [step for step in (1, 2, 3, 4) if step != event["step"]]


def test_accumulated_micro_batches_equal_the_large_batch(recipe, digits_file, tmp_path):
    run, large = (
        train(recipe, data=digits_file, out=tmp_path / name, overrides=["train.precision=fp32", *settings])
        for name, settings in (("run", ["train.micro_batch=2"]), ("large", []))
    )
    assert losses(run) == pytest.approx(losses(large), rel=1e-5)
    ours, theirs = (load_file(r / "checkpoints" / "00000004" / "model.safetensors") for r in (run, large))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


CONTRASTIVE = ["diffusion.objective=x0-flow", "diffusion.contrastive=0.1", "sample.sampler=heun"]


@pytest.fixture(scope="module")
def contrastive(tmp_path_factory, digits_file) -> Path:
    folder = tmp_path_factory.mktemp("contrastive")
    (folder / "tiny.toml").write_text(RECIPE)
    settings = [*CONTRASTIVE, "train.precision=fp32"]
    return train(folder / "tiny.toml", data=digits_file, out=folder / "run", overrides=settings)


def test_a_contrastive_run_resumes_to_the_bit_and_says_its_mse(contrastive, recipe, digits_file, tmp_path):
    settings = [*CONTRASTIVE, "train.precision=fp32"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=[*settings, "train.steps=6"])
    train(recipe, data=digits_file, out=run, overrides=settings)
    assert content(run) == content(contrastive)
    assert all(line["loss"] < line["mse"] for line in read_log(run / "metrics.jsonl"))


def test_partners_do_not_depend_on_micro_batches(contrastive, recipe, digits_file, tmp_path):
    settings = [*CONTRASTIVE, "train.precision=fp32", "train.micro_batch=2", "train.steps=4"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings)
    ours, theirs = (load_file(r / "checkpoints" / "00000004" / "model.safetensors") for r in (run, contrastive))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_partners_do_not_depend_on_processes(contrastive, recipe, digits_file, tmp_path):
    settings = [*CONTRASTIVE, "train.precision=fp32", "train.micro_batch=2"]
    together(*arguments(recipe, digits_file, tmp_path / "run", *settings))
    assert losses(tmp_path / "run") == pytest.approx(losses(contrastive), rel=1e-4)


@pytest.mark.parametrize("setting", ['data.cache="ram"', 'data.cache="device"', "train.activation_checkpointing=true"])
def test_what_may_change_between_sessions_changes_no_bit(setting, undisturbed, recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=6"])
    train(recipe, data=digits_file, out=run, overrides=[setting])
    assert content(run) == content(undisturbed)


def test_a_run_of_an_older_discli_goes_on_with_the_defaults_of_what_is_new(undisturbed, recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=6"])
    description = json.loads((run / "run.json").read_text())
    for section, key in (
        ("model", "d_conv"), ("model", "mixer"), ("model", "scan_order"), ("train", "score"), ("train", "skip_limit")
    ):  # fmt: skip
        del description["recipe"][section][key]
    (run / "run.json").write_text(json.dumps(description))
    train(recipe, data=digits_file, out=run)
    assert content(run) == content(undisturbed)


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(undisturbed, recipe, digits_file, tmp_path, capsys):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=8"])
    with (run / "checkpoints" / "00000008" / "optimizer.safetensors").open("r+b") as file:
        file.truncate(1000)
    train(recipe, data=digits_file, out=run)
    assert "optimizer.safetensors has 1,000 bytes" in capsys.readouterr().err.replace("\n", " ")
    assert content(run) == content(undisturbed)


def _go_wrong(recipe, data, run, *settings: str) -> DiscliError:
    """Train on from a healthy checkpoint of step 4 with a learning rate that breaks the weights in one step."""
    settings = ("train.skip_limit=3", *settings)
    train(recipe, data=data, out=run, overrides=[*settings, "train.steps=4"])
    description = json.loads((run / "run.json").read_text())
    description["recipe"]["train"]["lr"] = 1e30
    (run / "run.json").write_text(json.dumps(description))
    with pytest.raises(DiscliError, match="not finite at step") as caught:
        train(recipe, data=data, out=run, overrides=[*settings, "train.lr=1e30"])
    return caught.value


def test_not_finite_steps_are_skipped_logged_and_end_in_a_report(recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    assert _go_wrong(recipe, digits_file, run).status == 1
    events = read_log(run / "events.jsonl")
    assert [e["event"] for e in events] == ["skipped"] * 3 + ["rolled back"] + ["skipped"] * 3 + ["ended"]
    assert len(events[0]["indices"]) == 8
    assert events[0]["indices"] != events[4]["indices"]
    weights = load_file(run / "checkpoints" / "00000004" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_run_that_ended_in_bad_steps_goes_on_with_the_remedies_it_names_and_records_them(
    recipe, digits_file, tmp_path
):
    run = tmp_path / "run"
    error = _go_wrong(recipe, digits_file, run)
    assert all(remedy in error.hint for remedy in ("train.lr", "train.grad_clip", "train.precision=fp32"))
    for worse in ("train.lr=1e31", "train.grad_clip=2", "train.weight_decay=0.1"):
        with pytest.raises(DiscliError, match="was started with"):
            train(recipe, data=digits_file, out=run, overrides=["train.skip_limit=3", "train.lr=1e30", worse])
    milder = ["train.skip_limit=3", "train.lr=1e-4", "train.grad_clip=0.5", "train.precision=fp32"]
    train(recipe, data=digits_file, out=run, overrides=[*milder, "train.steps=8"])
    settings = {"train.lr": [1e30, 1e-4], "train.grad_clip": [1.0, 0.5], "train.precision": ["auto", "fp32"]}
    description = json.loads((run / "run.json").read_text())
    assert [change["settings"] for change in description["changes"]] == [settings]
    assert [e["event"] for e in read_log(run / "events.jsonl")] == ["settings changed"]
    train(recipe, data=digits_file, out=run, overrides=milder)  # as a run like any other
    assert json.loads((run / "run.json").read_text())["changes"] == description["changes"]
    assert [line["lr"] for line in read_log(run / "metrics.jsonl")][-1] == 1e-4
    with pytest.raises(DiscliError, match="was started with"):
        train(recipe, data=digits_file, out=run, overrides=[*milder, "train.lr=1e-5"])


def test_roll_backs_are_counted_per_checkpoint_and_not_for_the_life_of_a_run(tmp_path, monkeypatch):
    """One sample of 128 is no number: a burst in every epoch of 16 steps, with a limit of one."""
    promise = contract(codec=VAE, dtype="float32", resolution=8, flip_stored=False)
    rows = some_rows(128, promise)
    rows[11, :, 0, 0] = np.nan
    data = write_store(tmp_path / "latents.h5", rows, promise)
    recipe = tmp_path / "latents.toml"
    recipe.write_text(RECIPE.replace("num_classes = 10", "").replace("horizontal_flip = true", CODEC))
    tickers = []

    @contextmanager
    def kept(*about):
        with progress(*about) as ticker:
            tickers.append(ticker)
            yield ticker

    monkeypatch.setattr("discli.training.trainer.progress", kept)
    settings = ["train.steps=40", "train.skip_limit=1", "train.checkpoint_every=2"]
    run = train(recipe, data=data, out=tmp_path / "run", overrides=settings)
    events = [line["event"] for line in read_log(run / "events.jsonl")]
    assert events.count("rolled back") > 1
    assert "ended" not in events
    assert [ticker.done for ticker in tickers] == [40]  # and not those that were done again as well


def test_a_dry_run_says_what_it_takes_checks_all_and_writes_nothing(recipe, digits_file, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    settings = ["train.tracker=tensorboard", 'train.score={every=4,features="random"}', "train.preview_every=4"]
    train(recipe, data=digits_file, out=tmp_path / "a" / "run", overrides=settings, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().err
    assert "12 steps of 8" in said
    assert "a checkpoint" in said

    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=4"])
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    train(recipe, data=digits_file, out=run, dry_run=True)
    assert "resuming at step 4 of 12 steps" in capsys.readouterr().err
    with pytest.raises(DiscliError, match=r"train\.lr"):
        train(recipe, data=digits_file, out=run, overrides=["train.lr=0.5"], dry_run=True)
    missing = 'train.score={every=4,features="random",reference="none.npz"}'
    with pytest.raises(DiscliError, match="does not exist"):
        train(recipe, data=digits_file, out=run, overrides=[missing], dry_run=True)
    with pytest.raises(DiscliError, match="not a run's"):
        train(recipe, data=digits_file, out=tmp_path, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files


@pytest.mark.parametrize("device", ["cuda:99", "mps", "tpu7"])
def test_a_device_that_is_not_there_is_refused(device, recipe, digits_file, tmp_path):
    with pytest.raises(DiscliError, match=f"--device {device}") as caught:
        train(recipe, data=digits_file, out=tmp_path / "run", device=device)
    assert caught.value.status == 2
    assert not (tmp_path / "run").exists()


def test_the_device_can_be_chosen(undisturbed, recipe, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", device="cpu")
    assert content(run) == content(undisturbed)


def test_the_first_data_wait_after_a_rehearsal_counts_what_came_after_it(recipe, digits_file, tmp_path, monkeypatch):
    """The first batch comes late, before the clock of the log starts anew."""
    read = Store.read

    def slow(self, *args):
        monkeypatch.setattr(Store, "read", read)
        time.sleep(2)
        return read(self, *args)

    monkeypatch.setattr(Store, "read", slow)
    monkeypatch.setattr(Engine, "needs_rehearsal", True)
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.log_every=1", "train.steps=2"])
    assert read_log(run / "speed.jsonl")[0]["data_wait"] < 0.9


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


def test_a_run_goes_on_by_its_folder_from_anywhere_with_the_same_bits(
    undisturbed, recipe, digits_file, tmp_path, monkeypatch
):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=6"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train(run, overrides=["train.steps=12"]) == run
    assert content(run) == content(undisturbed)


def test_what_it_will_take_is_said_before_the_first_step(recipe, digits_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("discli.training.announce.A_DAY", 0.0)
    train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=2"])
    said = capsys.readouterr().err
    assert re.search(r"2 steps of 8: 16 images, 0\.08 epochs of 200;", said)
    assert re.search(r"Time: about .* on this machine", said)
    assert f"discli recipe new tiny-1h --data {digits_file} --minutes 60 && discli train tiny-1h.toml" in said


def test_a_folder_with_other_files_is_refused(recipe, digits_file, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.123.writing").write_text("{")  # as where a first start is killed
    train(recipe, data=digits_file, out=tmp_path / "run", dry_run=True)
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(DiscliError, match="not a run's"):
        train(recipe, data=digits_file, out=tmp_path / "run")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_previews_are_always_of_the_same_noise_which_is_shown_first_where_asked_for(recipe, digits_file, tmp_path):
    settings = ["train.preview_every=6", "train.preview_count=4"]
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=settings)
    again = train(recipe, data=digits_file, out=tmp_path / "again", overrides=[*settings, "train.preview_first=true"])
    names = ["00000006.png", "00000012.png"]
    assert sorted(p.name for p in (run / "previews").iterdir()) == names
    assert sorted(p.name for p in (again / "previews").iterdir()) == ["00000000.png", *names]
    assert all((run / "previews" / n).read_bytes() == (again / "previews" / n).read_bytes() for n in names)


@pytest.mark.slow
def test_verify_resume_reports_on_the_users_own_recipe(recipe, digits_file):
    done = warm.run(*arguments(recipe, digits_file, Path("unused"))[:-2], "--verify-resume")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(":")[0] for line in lines} == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "metrics.jsonl",
    }
    assert all(line.endswith("bit-identical") for line in lines)
