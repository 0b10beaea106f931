"""Parts of the work: every item once, whatever the number of processes."""

import pytest
import torch

from discli.runtime.devices import own_gpu
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world, share, without_others


@pytest.mark.parametrize("count", [0, 1, 7, 8, 3125])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_parts_cover_everything_once_and_are_even(count, world):
    parts = [share(count, rank, world) for rank in range(world)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, (0, 1)),  # srun -n 1
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (0, 1)),
    ],
)
def test_launchers_say_who_we_are(environment, expected):
    assert rank_and_world(environment) == expected
    assert rank_and_world(without_others(environment)) == (0, 1)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("0", "0"), ("x", "2"), ("-1", "2"), ("0", "")])
def test_what_no_launcher_says_is_refused(rank, world):
    with pytest.raises(DiscliError, match=f"RANK={rank}, WORLD_SIZE={world}"):
        rank_and_world({"RANK": rank, "WORLD_SIZE": world})


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [
        ({}, 8, "cuda:0"),
        ({"LOCAL_RANK": "3"}, 8, "cuda:3"),
        ({"SLURM_LOCALID": "3"}, 8, "cuda:3"),
        ({"SLURM_LOCALID": "3"}, 1, "cuda:0"),  # --gpus-per-task=1 shows each task its own
        ({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, 2, "cuda:1"),
    ],
)
def test_each_process_of_a_machine_takes_a_gpu_of_its_own(environment, gpus, expected, monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert own_gpu() == expected
