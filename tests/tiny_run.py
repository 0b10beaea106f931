"""A recipe so small that a run takes a second, and what to compare two runs by."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from discli.runs.logs import read_log
from tests import warm

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


_STEPS = itertools.count()


def arguments(recipe: Path, data: Path, run: Path, *settings: str) -> list[str]:
    flags = [part for setting in settings for part in ("--set", setting)]
    return ["-m", "discli", "train", str(recipe), "--data", str(data), "--out", str(run), *flags]


def launch(how: str, *train: str, processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Several processes of one run: by torchrun, by accelerate launch, or, soonest, with what srun sets."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if how == "slurm":
        job = environment | slurm_step(processes)
        ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(processes)]
        return [task.wait() for task in [warm.Process(*train, env=job | rank) for rank in ranks]]
    launcher = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)],
        "accelerate": [
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes",
            str(processes),
            "--main_process_port",
            "0",
        ],
    }[how]
    done = subprocess.run([sys.executable, "-m", *launcher, *train], capture_output=True, text=True, env=environment)
    return [done]


def together(*train: str, processes: int = 2) -> str:
    """Several processes of one run that all end well; what they write on stderr."""
    tasks = launch("slurm", *train, processes=processes)
    said = "".join(task.stderr for task in tasks)
    assert [task.returncode for task in tasks] == [0] * processes, said
    return said


def slurm_step(tasks: int) -> dict[str, str]:
    """What srun sets for every task, but for SLURM_PROCID and SLURM_LOCALID."""
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_ID": str(next(_STEPS)),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": str(tasks),
    }


def content(run: Path, step: int = 12) -> dict[str, object]:
    """Everything that an interruption must leave the same, bit for bit."""
    folder = run / "checkpoints" / f"{step:08d}"
    tensors = {
        path.name: {k: v.numpy().tobytes() for k, v in load_file(path).items()} for path in folder.glob("*.safetensors")
    }
    return {
        "tensors": tensors,
        "metrics": (run / "metrics.jsonl").read_bytes(),
        "window": json.loads((folder / "state.json").read_text())["window"],
    }


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run / "metrics.jsonl")]
