"""``python -m tests.bench.side_by_side [STEPS]``: how much longer do two trainings take that share the cores?

Two processes halve each other's speed; what makes it worse is threads that spin while they wait, on cores
that the other process needs. The same small run alone, two at once, and alone with four threads for each
core (as in a container that may use fewer cores than it sees), with discli's setting of the OpenMP runtime
and with the runtime's own. Seconds of the steps themselves, from speed.jsonl, and CPU seconds of each process.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from discli.cli.quickstart import unpack_digits
from discli.data.encode import encode
from discli.runs.logs import read_log
from discli.runtime.console import stderr

BATCH, LIMIT = 32, 600.0
RECIPE = """
name = "small"
[model]
embed_dim = 64
depth = 5
patch_size = 2
num_classes = 10
[data]
resolution = 16
[train]
steps = {steps}
batch_size = {batch}
log_every = 10
checkpoint_every = 1000000
preview_every = 0
tracker = "none"
"""


def together(count: int, recipe: Path, data: Path, folder: Path, **environment: str) -> list[tuple[float, float]]:
    """(seconds of the steps after the first ten, CPU seconds in all) of ``count`` trainings started at once."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    runs = [Path(tempfile.mkdtemp(dir=folder)) / "run" for _ in range(count)]
    command = [sys.executable, "-m", "discli", "train", str(recipe), "--data", str(data), "--out"]
    started = [
        subprocess.Popen(
            [*command, str(run)], env=clean | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for run in runs
    ]
    found = []
    for process, run in zip(started, runs, strict=True):
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, said
        laps = read_log(run / "speed.jsonl")[1:]
        found.append((sum(10 * BATCH / lap["images_per_second"] for lap in laps), usage.ru_utime + usage.ru_stime))
    return found


def main() -> None:
    stderr.quiet = True
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores (load {os.getloadavg()[0]:.1f} before), {steps} steps of {BATCH}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unpack_digits(folder / "digits")
        data = encode(folder / "digits", 16, codec="rgb", out=folder / "digits.h5", workers=0)
        recipe = folder / "small.toml"
        recipe.write_text(RECIPE.format(steps=steps, batch=BATCH))
        print(f"{'':44}{'seconds':>18}{'CPU seconds':>18}")
        for name, setting in (("discli's setting", {}), ("the runtime's own", {"GOMP_SPINCOUNT": "300000"})):
            for what, count, threads in (("alone", 1, cores), ("two at once", 2, cores), ("alone", 1, 4 * cores)):
                found = together(count, recipe, data, folder, OMP_NUM_THREADS=str(threads), **setting)
                seconds, work = (" ".join(f"{value:.1f}" for value in column) for column in zip(*found, strict=True))
                print(f"{name}: {what}, {threads} threads".ljust(44) + f"{seconds:>18}{work:>18}", flush=True)


if __name__ == "__main__":
    main()
