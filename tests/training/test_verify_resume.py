"""What a trial run complains of reaches the user."""

import pytest
from typer.testing import CliRunner

from discli.cli import app
from discli.data.store import open_store
from discli.recipe import load_recipe
from discli.runs.description import RunDescription
from discli.runtime.errors import DiscliError
from discli.training.verify_resume import verify_resume


def test_a_run_that_cannot_start_says_why(tmp_path):
    with pytest.raises(DiscliError) as refused:
        verify_resume("quickstart", data=tmp_path / "gone.h5")
    assert "The trial run failed: " in refused.value.message
    assert "gone.h5 does not exist" in refused.value.message
    assert "discli encode" in refused.value.hint
    assert refused.value.status == 2


def test_it_is_tried_with_as_many_processes_as_asked_for(digits_file):
    settings = ["data.resolution=8", "train.batch_size=4"]
    with pytest.raises(DiscliError, match="does not divide among 3 processes"):
        verify_resume("quickstart", data=digits_file, overrides=settings, device="cpu", processes=3)


def test_a_run_is_tried_as_it_was_started_and_stays_as_it_is(tmp_path, digits_file, monkeypatch):
    run, commands = tmp_path / "run", []
    recipe = load_recipe("quickstart", ["data.resolution=8", "train.batch_size=32"])
    contract = open_store(digits_file).contract
    run.mkdir()
    RunDescription.of(recipe, contract, digits_file).write(run)
    monkeypatch.setattr("discli.training.verify_resume._run", commands.append)
    monkeypatch.setattr("discli.training.verify_resume._kill_midway", lambda command, folder: commands.append(command))
    verify_resume(run, device="cpu")
    assert sorted(path.name for path in run.iterdir()) == ["run.json"]
    for command in commands:
        assert command[3:5] == ["train", str(run)]
        assert command[command.index("--processes") + 1] == "1"  # or it would choose for itself


@pytest.mark.parametrize("flag", [["--out", "elsewhere"], ["--dry-run"]])
def test_what_it_would_ignore_is_refused(flag):
    done = CliRunner().invoke(app, ["train", "quickstart", "--verify-resume", *flag])
    assert isinstance(done.exception, DiscliError)
    assert done.exception.message.startswith(flag[0])
