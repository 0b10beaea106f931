"""``python -m tests.bench.device --out DIR --budget 450``: all that one GPU can tell about discli, in so many seconds.

Each step is a process of its own with a time limit. One JSON line a step goes to DIR/steps.jsonl at once,
what it said to DIR/STEP.log, and at the end a table to DIR/table.md, to be pasted into tests/bench/README.md.
Steps come in order of value; one that no longer fits is skipped. ``--rehearse`` runs the code of every step with
tiny shapes on a CPU, all in one process, with Triton's interpreter for its kernels and a CPU's emulation of CUDA
graphs: it proves that they run, and measures nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.device_steps import ONCE, STEPS, Case, Step, rehearsal

ROOT = Path(__file__).resolve().parents[2]
_SPARE = 5.0  # seconds: with less left, no step begins
_PATIENCE = 20  # times a step's limit, where it is rehearsed on a CPU that may be busy


def run_steps(steps: Sequence[Step], out: Path, limit: float, rehearse: bool) -> list[dict[str, Any]]:
    """The steps in one process group, all of it ended at the limit; what became of each."""
    log = out / f"{'rehearsal' if rehearse else steps[0].name}.log"
    for step in steps:
        _answer(out, step.name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.bench.device", "--out", str(out), "--child", *(s.name for s in steps)]
    environment = dict(os.environ)
    if rehearse:
        command.append("--rehearse")
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return [_row(step, out, log, "timeout" if code is None else "failed") for step in steps]


def _answer(out: Path, name: str) -> Path:
    return out / f"{name}.json"


def _row(step: Step, out: Path, log: Path, otherwise: str) -> dict[str, Any]:
    """``otherwise``: what became of a step that does not say itself that it is over."""
    row: dict[str, Any] = {"format": 1, "step": step.name, "seconds": 0.0, "status": otherwise, "result": {}}
    answer = _answer(out, step.name)
    if answer.exists():
        row |= json.loads(answer.read_text())
    if row["status"] in ("passed", "failed") and answer.exists():
        return row
    return row | {"status": otherwise, "error": "\n".join(log.read_text(errors="replace").splitlines()[-20:])}


def run_all(steps: Sequence[Step], out: Path, budget: float, rehearse: bool) -> list[dict[str, Any]]:
    deadline = time.monotonic() + budget
    rows: list[dict[str, Any]] = []
    stopped = ""
    with (out / "steps.jsonl").open("w") as lines:
        for together in [list(steps)] if rehearse else [[step] for step in steps]:
            left = deadline - time.monotonic()
            if stopped or left < _SPARE:
                found = [
                    {"format": 1, "step": step.name, "seconds": 0.0, "status": "skipped"}
                    | {"result": {"skipped": stopped or "no time left"}}
                    for step in together
                ]
            else:
                limit = min(sum(step.limit for step in together) * (_PATIENCE if rehearse else 1), left)
                what = "all steps" if rehearse else f"{together[0].name}: {together[0].what}"
                print(f"{what}, at most {limit:.0f} s", file=sys.stderr, flush=True)
                found = run_steps(together, out, limit, rehearse)
            for step, row in zip(together, found, strict=True):
                if step.essential and row["status"] in ("failed", "timeout"):
                    stopped = f"{step.name} {row['status']}"
                    print(row["error"], file=sys.stderr)
                rows.append(row)
                lines.write(json.dumps(row) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
    return rows


def table(rows: Sequence[dict[str, Any]], rehearse: bool) -> str:
    """Markdown: a row for each number that a step brought, and for each step that brought none."""
    title = "Rehearsed on a CPU: these times say nothing.\n\n" if rehearse else ""
    lines = ["| step | | |", "|---|---|---|"]
    for row in rows:
        flat = _flat(row.get("result", {}))
        if row["status"] in ("failed", "timeout"):
            last = row["error"].splitlines()[-1:] or [""]
            flat.append((row["status"], last[0].replace("|", "/")))
        lines += [f"| {row['step']} | {name} | {_cell(value)} |" for name, value in flat]
    return title + "\n".join(lines) + "\n"


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in _flat(one, f"{name}, {key}" if name else str(key))]
    return [(name, value)]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def child(names: Sequence[str], out: Path, rehearse: bool) -> bool:
    """Runs steps here, of whose names these are; whether all are well."""
    if rehearse:
        rehearsal()
    failed = [step.name for step in STEPS if step.name in names and not _run(step, Case(out, rehearse))]
    return not failed


def _run(step: Step, case: Case) -> bool:
    """The step's answer is in its file, as far as it has come."""
    result: dict[str, Any] = {}
    started = time.monotonic()

    def write(status: str, **more: Any) -> None:
        told = {"status": status, "seconds": round(time.monotonic() - started, 1), "result": result}
        _answer(case.out, step.name).write_text(json.dumps(told | more))

    def note(key: str, value: Any) -> None:
        result[key] = value
        write("begun")

    try:
        step.run(case, note)
    except Exception:
        traceback.print_exc()
        write("failed", error="\n".join(traceback.format_exc().splitlines()[-20:]))
        return False
    write("passed")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--budget", type=float, default=450, help="seconds for all steps together")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS], help="only these")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU: does every step's code run?")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if args.child:
        raise SystemExit(not child(args.child, out, args.rehearse))
    chosen = [step for step in STEPS if (step.name in args.steps if args.steps else step.name != ONCE)]
    rows = run_all(chosen, out, args.budget, args.rehearse)
    text = table(rows, args.rehearse)
    (out / "table.md").write_text(text)
    print(text)
    if any(row["status"] in ("failed", "timeout") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
