"""A training that shares a CPU's cores among processes, as a user meets it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from discli.recipe import load_recipe
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training.cores import processes_for
from tests import warm
from tests.tiny_run import RECIPE, arguments, content, losses, together

ONE_THREAD, TWO_THREADS = os.environ | {"OMP_NUM_THREADS": "1"}, os.environ | {"OMP_NUM_THREADS": "2"}


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_are_two_of_any_launcher_and_go_on_as_they_began(recipe, digits_file, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    together(*arguments(recipe, digits_file, theirs))
    first = warm.run(*arguments(recipe, digits_file, ours, "train.steps=8"), "--processes", "2", env=ONE_THREAD)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{ours}\n"  # said once
    more = warm.run(*arguments(recipe, digits_file, ours), env=TWO_THREADS)  # one each
    assert more.returncode == 0, more.stderr
    assert [session["processes"] for session in read_log(ours / "sessions.jsonl")] == [2, 2]
    assert content(ours)["tensors"] == content(theirs)["tensors"]
    assert losses(ours)[-1] == losses(theirs)[-1]  # the shorter run logged its last step, too


@pytest.mark.slow
def test_whoever_ends_the_first_ends_all(recipe, digits_file, tmp_path):
    train = [*arguments(recipe, digits_file, tmp_path / "run", "train.steps=100000"), "--processes", "2"]

    def begun() -> bool:
        return len(read_log(tmp_path / "run" / "metrics.jsonl")) > 2

    process = warm.Process(*train, env=ONE_THREAD)
    wait_until(begun)
    [other] = children(process.pid)
    process.send_signal(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.count("checkpoint of step") == 1
    assert not alive(other)

    process = warm.Process(*train, env=ONE_THREAD)
    wait_until(lambda: children(process.pid) and len(read_log(tmp_path / "run" / "sessions.jsonl")) == 2)
    [other] = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not alive(other))


@pytest.mark.slow
def test_a_lost_process_is_named_and_the_run_goes_on_from_its_checkpoint(recipe, digits_file, tmp_path):
    run = tmp_path / "run"
    train = [*arguments(recipe, digits_file, run, "train.steps=100000", "train.checkpoint_every=10"), "--processes=2"]
    process = warm.Process(*train, env=ONE_THREAD)
    wait_until(lambda: (run / "checkpoints" / "00000010").exists() or len(list((run / "checkpoints").glob("0*"))) > 1)
    [other] = children(process.pid)
    os.kill(other, signal.SIGKILL)
    done = process.wait()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-2].startswith("discli: Process 2 of 2 ended with SIGKILL")
    step = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    again = warm.run(
        *arguments(recipe, digits_file, run, f"train.steps={step + 2}", "train.checkpoint_every=10"), env=ONE_THREAD
    )
    assert again.returncode == 0, again.stderr


def test_as_many_as_divide_the_batch_and_leave_each_enough(recipe, tmp_path, monkeypatch):
    def count(
        *settings: str, threads: int = 4, cores: int = 16, asked: int | None = None, folder: Path = tmp_path
    ) -> int:
        monkeypatch.setattr("torch.get_num_threads", lambda: threads)
        monkeypatch.setattr("discli.training.cores.usable_cores", lambda: cores)
        return processes_for(load_recipe(recipe, list(settings)), folder, "cpu", asked)

    assert count("train.batch_size=64") == 4
    assert count("train.batch_size=64", threads=16) == 4
    assert count("train.batch_size=64", threads=1) == 1
    assert count("train.batch_size=64", threads=4, cores=1) == 1  # where OMP_PROC_BIND has bound them
    assert count("train.batch_size=66", threads=4) == 3
    assert count("train.batch_size=16") == 2  # four would have four samples each
    assert count("train.batch_size=64", "train.micro_batch=32") == 2
    assert count("train.batch_size=64", "train.parallel=fsdp2") == 1
    assert count("train.batch_size=64", "data.cache=ram") == 1
    assert count("train.batch_size=64", "data.cache=device") == 1
    assert count("train.batch_size=64", "model.embed_dim=1024", "model.depth=13") == 1
    assert count("train.batch_size=16", asked=4) == 4
    with pytest.raises(DiscliError, match="does not divide"):
        count("train.batch_size=64", asked=3)
    (tmp_path / "run").mkdir()
    for began in (1, 4):
        (tmp_path / "run" / "sessions.jsonl").write_text(json.dumps({"step": 0, "processes": began}) + "\n")
        assert count("train.batch_size=16", folder=tmp_path / "run") == began


def test_a_launcher_s_own_processes_start_no_others(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    wanted = load_recipe(recipe, ["train.batch_size=64"])
    assert processes_for(wanted, tmp_path, "cpu", None) == 1
    with pytest.raises(DiscliError, match="--processes 2"):
        processes_for(wanted, tmp_path, "cpu", 2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")  # as by torchrun, whose store the others would wait at
    assert processes_for(wanted, tmp_path, "cpu", None) == 1


BESIDE = """
import os, sys
from datetime import timedelta
sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]  # as those of the discli command
import torch
from discli.runtime import launch
from discli.runtime.rendezvous import meet
before = dict(os.environ)
"""


def test_another_starts_wherever_the_first_does_and_lends_its_threads_while_it_waits(tmp_path):
    (tmp_path / "queue.py").write_text("raise SystemExit('not this one')")
    code = """
torch.set_num_threads(4)
with launch.beside_others(["--version"], 2):
    assert launch._team.others[0][0].wait() == 0
    print(torch.get_num_threads(), os.environ["OMP_NUM_THREADS"])  # Accelerate changes the former without the latter
    with launch.all_threads():
        print(torch.get_num_threads())
    print(torch.get_num_threads())
print(torch.get_num_threads(), dict(os.environ) == before)
"""
    done = warm.run("-c", BESIDE + code, cwd=tmp_path)
    assert done.stdout.split() == ["2", "2", "4", "2", "4", "True"], done.stderr


def test_another_that_does_not_start_is_not_waited_for(tmp_path):
    code = """
with launch.beside_others(["no-such-command"], 2):
    meet("gloo", timedelta(minutes=1))
"""
    started = time.monotonic()
    done = warm.run("-c", BESIDE + code, cwd=tmp_path)
    assert "Process 2 of 2 ended with status 2: No such command: discli no-such-command." in done.stderr
    assert time.monotonic() - started < 50  # of ten minutes


@pytest.mark.slow
def test_a_program_trains_with_others_and_then_alone(recipe, digits_file, tmp_path):
    words = [str(word) for word in arguments(recipe, digits_file, tmp_path / "ours")[2:]]
    code = f"""
from typer.testing import CliRunner
from discli.cli import app
from discli.training.train import train
for _ in range(2):
    assert CliRunner().invoke(app, [*{words!r}, "--processes=2"]).exit_code == 0
train({str(recipe)!r}, data={str(digits_file)!r}, out={str(tmp_path / "alone")!r})
"""
    done = warm.run("-c", code, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
