"""``python -m tests.bench.processes DATA.h5 [RECIPE ...]``: one training in 1, 2, ... processes of the same threads.

Every round trains each in turn, so that all meet the same machine. Figures are medians over rounds of the images a
second that the run's speed.jsonl has after the first line: from data to optimizer, without compiling and previews.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from discli.runs.logs import read_log

_STEPS, _LOG_EVERY = 60, 20


def images_per_second(recipe: str, data: Path, processes: int, threads: int) -> float:
    settings = [f"train.steps={_STEPS}", f"train.log_every={_LOG_EVERY}", "train.preview_every=0"]
    settings += ["train.holdout_every=0", "train.score.every=0"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "discli", "train", recipe, "--data", str(data), "--out", str(run)]
        command += ["--device", "cpu", "--processes", str(processes), *(f"--set={setting}" for setting in settings)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return statistics.median(line["images_per_second"] for line in read_log(run / "speed.jsonl")[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("recipes", nargs="*", default=["cifar10-fast"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    counts = [count for count in (1, 2, 4) if count <= flags.threads]
    for recipe in flags.recipes:
        found: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(flags.rounds):
            for count, speeds in found.items():
                speeds.append(images_per_second(recipe, flags.data, count, flags.threads))
        one = statistics.median(found[1])
        for count, speeds in found.items():
            median = statistics.median(speeds)
            print(f"{recipe}, {count} x {flags.threads // count} threads: {median:.1f} images/s, {median / one:.2f}")


if __name__ == "__main__":
    main()
