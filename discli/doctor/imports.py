"""Which packages can be imported, tried in other processes: some imports end theirs.

``python -m discli.doctor.imports MODULE ...`` is such a process: a JSON line for each, until one fails.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from discli.runtime.errors import explain_import_error

# What discli itself imports of each required package, for a package can be half broken.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "numba": "numba",
    "typer": "typer",
    "rich": "rich",
    "packaging": "packaging.requirements",
    "jinja2": "jinja2",
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

_PATIENCE = 120  # seconds; from a cold network disk, torch alone takes half a minute


class Imported(NamedTuple):
    """How the import of a module went: of an ``error`` one line, and its fix where it is a known one."""

    version: str = ""
    missing: bool = False  # not installed at all
    error: str = ""
    fix: str = ""


def try_imports(modules: tuple[str, ...] = tuple(REQUIRED.values())) -> dict[str, Imported]:
    """Each module's `Imported`, in as few processes as there are broken modules, and one."""
    found: dict[str, Imported] = {}
    while waiting := modules[len(found) :]:
        answers, end = _run(waiting)
        found |= dict(zip(waiting, answers, strict=False))
        # The process ends at the first error it could tell of; the next module is to blame for any other end.
        if len(answers) < len(waiting) and not (answers and answers[-1].error):
            found[waiting[len(answers)]] = Imported(error=end)
    return found


def _run(modules: tuple[str, ...]) -> tuple[list[Imported], str]:
    """What the other process said before it ended, and how it ended."""
    # -P and our own path, so that it finds what this process would find, wherever it was started.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-P", "-m", "discli.doctor.imports", *modules]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE, check=False)
        said, last = done.stdout, done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        end = ": ".join([f"its import ended Python with status {done.returncode}", *last])
    except subprocess.TimeoutExpired as late:
        said, end = late.stdout or b"", f"its import did not end within {_PATIENCE} s"
    return [Imported(*json.loads(line)) for line in said.decode().splitlines()], end


def _import_all(modules: list[str]) -> None:
    """Stops after a failure: what a broken package left half imported would fail otherwise than on its own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # packages that print while they are imported
    for module in modules:
        answer = _import(module)
        print(json.dumps(answer), file=answers, flush=True)
        if answer.error:
            break
    os._exit(0)  # no destructors of half-imported libraries


def _import(module: str) -> Imported:
    package = module.partition(".")[0]
    try:
        importlib.import_module(module)
        return Imported(str(getattr(sys.modules[package], "__version__", "")))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            return Imported(missing=True)
        if known := explain_import_error(error):
            return Imported(error=known.message, fix=known.hint)
        return Imported(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])


if __name__ == "__main__":
    _import_all(sys.argv[1:])
