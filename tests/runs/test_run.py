"""Who may write to a run's folder."""

import fcntl
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from discli.cli.info import info
from discli.evaluation.evaluate import evaluate
from discli.recipe import parse_recipe
from discli.reports.run import report_run
from discli.runs.description import read_run
from discli.runs.layout import find_run
from discli.runs.run import Run, what_to_train
from discli.runtime.errors import DiscliError
from discli.sampling.load import load, load_model
from discli.training.posthoc_ema import posthoc_ema

TINY = """
name = "other"
model = { embed_dim = 16, depth = 3 }
data.resolution = 8
train.steps = 1
"""


@pytest.fixture
def new_run(tiny_run, tmp_path) -> Callable[[], Run]:
    trained = load_model(tiny_run, torch.device("cpu"))
    return lambda: Run(tmp_path / "run", trained.recipe, trained.contract, Path("digits.h5"))


def test_a_second_trainer_is_refused(new_run):
    with new_run(), pytest.raises(DiscliError, match="another process"):
        new_run().__enter__()


def test_a_look_at_the_lock_keeps_nobody_from_training(new_run):
    """`discli runs` holds the lock for an instant, here for a long one."""
    run = new_run()
    run.folder.mkdir()
    look = (run.folder / ".lock").open("w")
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.1, look.close).start()
    with run:
        assert read_run(run.folder).id == run.id


@pytest.fixture
def listed(tiny_run, tmp_path, monkeypatch) -> Path:
    """A folder with the run ``runs/deep/mine``, as ``discli runs`` lists it, and a folder of the same name."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "deep" / "mine")
    (tmp_path / "deep" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/deep/mine")


def test_a_name_that_runs_shows_is_a_run(listed):
    assert find_run("deep/mine") == listed
    assert find_run(listed) == listed
    assert find_run(listed.resolve()) == listed.resolve()
    assert find_run("deep/mine/checkpoints/00000030") == listed / "checkpoints" / "00000030"
    assert find_run("deep") == Path("deep")
    assert find_run("x" * 5000) == Path("x" * 5000)


def test_every_command_that_takes_a_run_takes_its_name(listed, capsys):
    assert load("deep/mine", device="cpu").checkpoint == listed / "checkpoints" / "00000030"
    assert report_run("deep/mine").page == listed / "report.html"
    capsys.readouterr()
    info("deep/mine", as_json=True)
    assert json.loads(capsys.readouterr().out)["folder"] == str(listed)
    with pytest.raises(DiscliError, match="no snapshots"):  # and not that it is no run
        posthoc_ema(Path("deep/mine"), 0.1)
    (listed.parents[1] / "alone").symlink_to(listed.resolve())
    result = evaluate(Path("alone"), features="random", n=8, bootstrap=0)
    assert result.samples.n == 8


def test_train_takes_a_recipe_before_a_run_of_its_name(listed):
    """Then the same command that began the run goes on with it."""
    assert what_to_train("deep/mine").folder == listed
    Path("deep/mine.toml").write_text(TINY)
    assert what_to_train("deep/mine").folder == Path("runs/other")
    assert what_to_train(listed).folder == listed
    Path("deep/mine.toml").write_text("name = ")  # broken, which the run must not hide
    with pytest.raises(DiscliError, match="TOML"):
        what_to_train("deep/mine")


def test_a_run_is_trained_as_it_was_with_what_was_asked_for_besides(listed):
    task = what_to_train(listed, overrides=["train.steps=40"])
    before = read_run(listed)
    assert task.recipe.train.steps == 40
    assert task.recipe.model_dump(mode="json")["model"] == before.recipe["model"]
    assert str(task.file) == before.data_file
    assert what_to_train(listed, out=Path("elsewhere")).folder == Path("elsewhere")


def test_a_data_file_that_moved_is_asked_for(listed, digits_file):
    description = json.loads((listed / "run.json").read_text())
    description["data_file"] = "/gone/digits.h5"
    (listed / "run.json").write_text(json.dumps(description))
    with pytest.raises(DiscliError) as caught:
        what_to_train(listed)
    assert "/gone/digits.h5" in caught.value.message
    assert caught.value.hint.endswith("discli train runs/deep/mine --data digits.h5")
    assert what_to_train(listed, data=digits_file).file == digits_file


def test_what_is_neither_is_said_as_of_a_recipe():
    with pytest.raises(DiscliError, match="No recipe at nowhere"):
        what_to_train("nowhere")
    with pytest.raises(DiscliError, match="No recipe at"):
        what_to_train("x" * 5000)


def test_seeds_that_are_one_number_in_one_and_three_in_the_other_are_told_apart(tiny_run, tmp_path):
    trained = load_model(tiny_run, torch.device("cpu"))

    def run(seed: object) -> Run:
        tree = trained.recipe.model_dump(mode="json")
        tree["train"]["seed"] = seed
        return Run(tmp_path / "run", parse_recipe(tree, "tiny"), trained.contract, Path("digits.h5"))

    with run(0):
        pass
    with run({"init": 0, "order": 0, "noise": 0}):  # the same
        pass
    with pytest.raises(DiscliError) as caught:
        run({"init": 0, "order": 0, "noise": 9}).__enter__()
    assert "train.seed = 0" in caught.value.message
    assert "'noise': 9" in caught.value.message


def test_a_changed_setting_is_answered_with_the_command_that_began_the_run(tiny_run, tmp_path):
    trained = load_model(tiny_run, torch.device("cpu"))

    def run(lr: float) -> Run:
        train = trained.recipe.train.model_copy(update={"lr": lr})
        recipe = trained.recipe.model_copy(update={"train": train})
        command = f"discli train mine.toml --set train.lr={lr}"
        return Run(tmp_path / "run", recipe, trained.contract, Path("digits.h5"), command)

    with run(0.001):
        pass
    with run(0.001):  # the first command stays
        pass
    with pytest.raises(DiscliError) as caught:
        run(0.002).__enter__()
    assert "train.lr = 0.001" in caught.value.message
    assert f"discli train {tmp_path / 'run'} (it began with: discli train mine.toml --set train.lr=0.001)" in (
        caught.value.hint
    )
