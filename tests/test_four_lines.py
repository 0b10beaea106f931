"""The four lines of the README's promise, as they stand, alone and with two processes each."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from discli.data.store import Store
from discli.evaluation.features.inception import bare_inception
from tests import warm
from tests.data.autoencoders.autoencoders import save_kl
from tests.tiny_run import slurm_step

pytestmark = pytest.mark.slow

LINES = """
discli encode imagenet/ --res 256
discli train recipes/dis-l-2.toml
discli sample --cfg-scale 1.5 -n 5
discli eval-fid samples/
"""

# In the place of a network that takes a week.
RECIPE = """
name = "dis-l-2"
[model]
embed_dim = 16
depth = 3
patch_size = 8
num_classes = 2
[data]
resolution = 256
codec = "vae"
[train]
steps = 2
batch_size = 4
preview_every = 0
tracker = "none"
[train.ema]
decay = 0.5
[sample]
steps = 2
model_batch = 2
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> dict[str, str]:
    """Small or random networks where a first use would have put what it downloads."""
    folder = tmp_path_factory.mktemp("downloads")
    repository = folder / "hub" / "models--stabilityai--sd-vae-ft-ema"
    save_kl(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    torch.manual_seed(0)
    network = bare_inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), folder / "inception.pth")
    return {
        "HF_HOME": str(folder),
        "HF_HUB_CACHE": str(folder / "hub"),
        "DISCLI_INCEPTION_WEIGHTS": str(folder / "inception.pth"),
        "DISCLI_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def here(tmp_path) -> Path:
    numbers = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        for i in range(3):
            pixels = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((256, 256)).save(tmp_path / "imagenet" / name / f"{i}.png")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "dis-l-2.toml").write_text(RECIPE)
    return tmp_path


def processes(how: str, line: str) -> list[tuple[list[str], dict[str, str]]]:
    """(command, variables) of each process that runs ``line``."""
    discli = ["-m", *shlex.split(line)]
    if how == "torchrun":
        return [(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *discli], {})]
    if how == "srun":
        step = slurm_step(2)
        tasks = [step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
        return [(discli, task) for task in tasks]
    # What a batch script has, whose variables are nobody's task's: one process must do it all.
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    return [(discli, batch)]


@pytest.mark.timeout(900)  # torch is imported eight times, which takes its time on a busy machine
@pytest.mark.parametrize("how", ["alone", "torchrun", "srun"])
def test_the_four_lines_work_as_they_stand(how, here, downloads):
    said = ""
    for line in LINES.strip().splitlines():
        started = [
            warm.Process(*command, cwd=here, env=os.environ | downloads | variables)
            for command, variables in processes(how, line)
        ]
        done = [process.wait() for process in started]
        said = "".join(task.stdout + task.stderr for task in done)
        assert [task.returncode for task in done] == [0] * len(done), f"{line}\n{said}"
    assert len(Store(here / "imagenet-256-vae.h5")) == 6
    assert (here / "runs/dis-l-2/checkpoints/00000002/ema.safetensors").is_file()
    manifest = json.loads((here / "samples/manifest.json").read_text())
    assert (manifest["finished"], manifest["n"], manifest["cfg_scale"]) == (True, 5, 1.5)
    assert len(list((here / "samples").glob("*.png"))) == 5
    assert "imagenet-256-vae.h5" in said
    assert said.count("FID") >= 1


def test_without_inceptions_weights_the_fourth_says_what_can_be_had(here, downloads, tiny_run):
    from discli.sampling.sample import sample

    sample(tiny_run, 4, out=here / "samples")
    gone = downloads | {"DISCLI_INCEPTION_WEIGHTS": "", "TORCH_HOME": str(here / "nowhere"), "HF_HUB_OFFLINE": "1"}
    line = ["-m", "discli", "eval-fid", "samples/"]
    done = warm.run(*line, cwd=here, env=os.environ | gone)
    assert done.returncode == 2
    _, how = done.stderr.splitlines()[-2:]
    assert "random" in how
    assert warm.run(*line, "--features", "random", cwd=here, env=os.environ | gone).returncode == 0
