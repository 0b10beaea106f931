"""``discli train --verify-resume``: is resuming exact for this recipe, on this machine?

Trains the recipe for a few steps with small batches, twice: once undisturbed, once killed
(SIGKILL) in the middle and started again. Then compares every byte.
"""

import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from discli.runs.description import Take
from discli.runs.layout import RunFolder
from discli.runs.logs import read_log
from discli.runs.run import what_to_train
from discli.runtime.console import stderr
from discli.runtime.devices import pick_device, settle_precision
from discli.runtime.errors import DiscliError, last_error

_STEPS = 12
_BATCH = 8


def verify_resume(
    named: str | Path,
    *,
    data: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    begin_from: str | Path | None = None,
    take: Take | None = None,
    processes: int = 1,
) -> dict[str, bool]:
    """File name -> whether it has the same bits in both runs. Raises DiscliError when one of them fails.

    ``named``: a recipe, or a run, which stays as it is. ``processes`` share the cores of a CPU, as in the training
    that is tried (`discli.training.cores.processes_for`).
    """
    task = what_to_train(named, data, overrides=overrides)
    recipe = task.recipe
    if task.began and begin_from is None:
        begin_from, take = task.began.source, task.began.take
    # Two micro-batches for each process, of whole groups where a loss compares neighbours.
    least = 2 * processes * math.lcm(1, *(loss.group() for loss in recipe.train.auxiliary.values()))
    batch = min(math.ceil(_BATCH / least) * least, recipe.train.batch_size)
    command = [sys.executable, "-m", "discli", "train", str(named)]
    command += ["--data", str(data)] if data else []
    command += ["--device", device] if device else []
    command += ["--from", str(begin_from)] if begin_from else []
    command += ["--take", take] if take else []
    command += ["--processes", str(processes)]
    here = pick_device(device)  # on which both runs must choose the same
    for setting in [
        *overrides,
        f"train.steps={_STEPS}",
        f"train.batch_size={batch}",
        *([f"train.micro_batch={half}"] if recipe.train.micro_batch and (half := batch // processes // 2) else []),
        "train.checkpoint_every=4",
        "train.log_every=3",
        "train.preview_every=0",
        "train.score.every=0",
        "train.holdout_every=0",
        'train.tracker="none"',
        f"train.precision={settle_precision(recipe.train.precision, here).name}",
    ]:
        command += ["--set", setting]

    folder = Path(tempfile.mkdtemp(prefix="discli-verify-resume-"))
    try:
        undisturbed, killed = folder / "undisturbed", folder / "killed"
        stderr.print(f"{_STEPS} steps of batch {batch}, undisturbed ...")
        _run([*command, "--out", str(undisturbed)])
        stderr.print("again, killed in the middle ...")
        _kill_midway([*command, "--out", str(killed)], killed)
        stderr.print("and started again ...")
        _run([*command, "--out", str(killed)])
        return _compare(undisturbed, killed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        what, how = last_error(done.stderr)
        how = how or "Train without --verify-resume to see more."
        raise DiscliError(f"The trial run failed: {what}", how, status=done.returncode)


def _kill_midway(command: list[str], run: Path) -> None:
    """SIGKILL once a checkpoint is written and later steps are logged, so that there is something to redo."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            lines = read_log(RunFolder(run).log("metrics"))
            if lines and lines[-1]["step"] >= 6:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        _, errors = process.communicate()
    finally:
        process.kill()
    if process.returncode != -signal.SIGKILL:
        what, how = last_error(errors) if process.returncode else ("it finished before it could be killed.", "")
        raise DiscliError(f"The trial run could not be interrupted: {what}", how or "Try again.", status=1)


def _compare(a: Path, b: Path) -> dict[str, bool]:
    one, other = RunFolder(a), RunFolder(b)
    weights = sorted(one.checkpoint(_STEPS).glob("*.safetensors"))
    pairs = [
        *((path, other.checkpoint(_STEPS) / path.name) for path in weights),
        (one.log("metrics"), other.log("metrics")),
    ]
    return {path.name: _bytes(path) == _bytes(twin) for path, twin in pairs}


def _bytes(path: Path) -> bytes | None:
    """The whole file; of safetensors the tensors alone, because the header may be written in any order."""
    if not path.exists():
        return None
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    return content[8 + int.from_bytes(content[:8], "little") :]
