"""How processes find one another, and what they say and answer while they wait."""

import os
import signal
import socket
import time

import pytest
import torch

from discli.runtime.rendezvous import adopt_slurm
from tests import warm
from tests.tiny_run import RECIPE, arguments

STEP = {
    "SLURM_JOB_ID": "70123",
    "SLURM_JOB_NODELIST": "login,gpu[03-05,9]",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[04-05],gpu9",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def adopted(**more: str) -> dict[str, str]:
    environment = STEP | more
    adopt_slurm(environment)
    return environment


def test_a_steps_variables_become_torchruns():
    found = {name: adopted()[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu04"}


def test_tasks_of_a_step_agree_on_a_port_that_no_other_step_has():
    ports = [
        adopted(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step))["MASTER_PORT"]
        for job in (70123, 70124)
        for step in range(100)
    ]
    assert len(set(ports)) == len(ports)
    assert all(1024 <= int(port) < 32768 for port in ports)
    assert adopted(SLURM_PROCID="0")["MASTER_PORT"] == adopted(SLURM_PROCID="1")["MASTER_PORT"]
    assert adopted(MASTER_PORT="77")["MASTER_PORT"] == "77"


@pytest.mark.parametrize(("gpus", "local_rank"), [(8, "5"), (1, "0"), (0, "5")])
def test_the_local_rank_names_a_gpu_that_the_task_can_see(gpus, local_rank, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert adopted(SLURM_STEP_NUM_TASKS="8", SLURM_PROCID="5", SLURM_LOCALID="5")["LOCAL_RANK"] == local_rank


@pytest.mark.parametrize(
    "environment",
    [
        {},
        STEP | {"RANK": "0", "WORLD_SIZE": "2"},  # torchrun within a step
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun -n 1, srun --pty bash
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"},  # a batch script
    ],
)
def test_whoever_is_no_task_of_a_step_is_left_alone(environment):
    before = dict(environment)
    adopt_slurm(environment)
    assert environment == before


@pytest.fixture
def one_of_two(digits_file, tmp_path):
    """``discli train`` as a process whose partner never comes."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "tiny.toml").write_text(RECIPE)

    def start(rank: int) -> warm.Process:
        team = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        return warm.Process(*arguments(tmp_path / "tiny.toml", digits_file, tmp_path / "run"), env=os.environ | team)

    return start


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (0, signal.SIGINT)])
def test_waiting_for_others_is_said_and_can_be_ended(one_of_two, rank, number):
    process = one_of_two(rank)
    while "for the others at localhost:" not in process.stderr():
        assert process.poll() is None, process.stderr()
        time.sleep(0.01)
    assert f"Process {rank + 1} of 2" in process.stderr()
    process.send_signal(number)
    asked = time.monotonic()
    done = process.wait()
    *_, what, how = done.stderr.strip().splitlines()
    assert time.monotonic() - asked < 30  # a moment, on a machine that is not busy; it used to be four hours
    assert done.returncode == 75
    assert what.startswith("discli: Stopped")
    assert how.startswith("  ")


def test_a_port_that_is_taken_is_two_lines(one_of_two, digits_file, tmp_path):
    with socket.create_server(("", 0)) as server:
        team = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(server.getsockname()[1])}
        done = warm.run(*arguments(tmp_path / "tiny.toml", digits_file, tmp_path / "run"), env=os.environ | team)
    *_, what, how = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "is taken by another program" in what
    assert "MASTER_PORT" in how


@pytest.mark.slow
def test_others_that_never_come_are_named(one_of_two, digits_file, tmp_path):
    program = f"""
from datetime import timedelta
from discli.runtime import rendezvous
from discli.cli import main
import sys
rendezvous.TIME_TO_COME = timedelta(seconds=3)
sys.argv = {["discli", *arguments(tmp_path / "tiny.toml", digits_file, tmp_path / "run")[2:]]!r}
main()
"""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    team = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    done = warm.run("-c", program, env=os.environ | team)
    *_, what, how = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert what.startswith("discli: Process 1 of 2 met no others")
    assert how.startswith("  ")
