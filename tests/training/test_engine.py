"""Launchers and what they set."""

import pytest

from discli.errors import DiscliError
from discli.recipe.train import TrainSpec
from discli.training.engine import Engine, adopt_slurm


def test_slurms_variables_become_torchruns():
    environment = {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "70123",
        "SLURM_JOB_NODELIST": "gpu[03-05,9],login",
    }
    adopt_slurm(environment)
    found = {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    assert found == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": str(20_000 + 70123 % 20_000),
    }


@pytest.mark.parametrize("launcher", [{"RANK": "0"}, {"SLURM_NTASKS": "1"}, {}])
def test_torchruns_own_and_single_tasks_are_left_alone(launcher):
    environment = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"} | launcher if "RANK" in launcher else dict(launcher)
    before = dict(environment)
    adopt_slurm(environment)
    assert environment == before


def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("discli.training.engine.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DiscliError, match="pip install wandb"):
        Engine(TrainSpec(steps=1, tracker="wandb"), tmp_path)
