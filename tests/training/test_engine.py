"""Launchers and what they set."""

import pytest
import torch

from discli.recipe.train import TrainSpec
from discli.runtime.errors import DiscliError
from discli.training.engine import Engine, adopt_slurm, auto_precision


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


@pytest.mark.parametrize(("gpus", "local_rank"), [(8, "5"), (1, "0"), (0, "5")])
def test_the_local_rank_names_a_gpu_that_the_task_can_see(gpus, local_rank, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    environment = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "5"}
    adopt_slurm(environment)
    assert environment["LOCAL_RANK"] == local_rank


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [("cpu", None, "fp32"), ("cuda", (9, 0), "bf16"), ("cuda", (8, 0), "bf16"), ("cuda", (7, 5), "fp32")],
)
def test_precision_is_bf16_only_where_the_gpu_computes_in_it(device, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert auto_precision(torch.device(device)) == expected


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


@pytest.mark.parametrize(
    ("norm", "is_finite", "asked", "expected"),
    [(2.5, True, False, (False, False)), (2.5, False, True, (True, True)), (float("inf"), True, False, (True, False))],
)
def test_one_agreement_a_step_says_what_is_not_finite_and_who_was_asked_to_stop(
    norm, is_finite, asked, expected, tmp_path
):
    engine = Engine(TrainSpec(steps=1, tracker="none"), tmp_path)
    found, *flags = engine.agree(torch.tensor(norm), torch.tensor(is_finite), asked)
    assert (found, *flags) == (norm, *expected)
