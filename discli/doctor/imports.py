"""Which packages can be imported, found out in other processes: some imports end theirs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

# What discli itself imports of each required package, for a package can be half broken.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "numba": "numba",
    "typer": "typer",
    "rich": "rich",
    "pydantic": "pydantic",
    "diffusers": "diffusers.models.autoencoders.autoencoder_kl",
    "accelerate": "accelerate",
    "huggingface-hub": "huggingface_hub",
    "safetensors": "safetensors.torch",
    "h5py": "h5py",
    "pillow": "PIL.Image",
    "torch-fidelity": "torch_fidelity.feature_extractor_inceptionv3",
    "tensorboard": "torch.utils.tensorboard",
    "matplotlib": "matplotlib.figure",
    "scipy": "scipy.stats",
}
OPTIONAL = (
    "triton",
    "mamba_ssm.ops.selective_scan_interface",
    "selective_scan_cuda",  # mamba-ssm's CUDA module
    "causal_conv1d",
    "causal_conv1d_cuda",
)
IMPORTS = (*REQUIRED.values(), *OPTIONAL)

_PATIENCE = 120  # seconds; from a cold network disk, torch alone takes half a minute


class Imported(NamedTuple):
    """How the import of a module went: of an ``error`` one line, and its remedy where it is a known one."""

    version: str = ""
    missing: bool = False  # not installed at all
    error: str = ""
    remedy: str = ""


def try_imports(modules: tuple[str, ...] = IMPORTS) -> dict[str, Imported]:
    """Each module's `Imported`, in as few processes as there are broken modules, and one."""
    found: dict[str, Imported] = {}
    while len(found) < len(modules):
        waiting = modules[len(found) :]
        answers, end = _run(waiting)
        found |= {module: Imported(**answer) for module, answer in zip(waiting, answers, strict=False)}
        # The process ends at the first error it could tell of; the next module is to blame for any other end.
        if len(answers) < len(waiting) and not (answers and answers[-1]["error"]):
            found[waiting[len(answers)]] = Imported(error=end)
    return found


def _run(modules: tuple[str, ...]) -> tuple[list[dict[str, Any]], str]:
    """What `discli.doctor.import_probe` said before it ended, and how it ended."""
    # -P and our own path, so that it finds what this process would find, wherever it was started.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-P", "-m", "discli.doctor.import_probe", *modules]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE, check=False)
        said, errors, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        said, errors, status = late.stdout or b"", b"", None
    answers = [json.loads(line) for line in said.decode().splitlines()]
    if status is None:
        return answers, f"its import did not end within {_PATIENCE} s"
    how = f"its import ended Python with signal {-status}" if status < 0 else f"its import ended Python ({status})"
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    return answers, ": ".join([how, *last])
