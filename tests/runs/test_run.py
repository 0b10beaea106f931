"""Who may write to a run's folder."""

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from discli.runs.run import Run, read_run
from discli.runtime.errors import DiscliError
from discli.sampling.load import load_model


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
        assert read_run(run.folder)["id"] == run.id
