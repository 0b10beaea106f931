"""Ctrl-C, sent as a terminal sends it: to the command and to all processes that it started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from discli.cli.quickstart import unpack_digits
from tests import warm
from tests.tiny_run import RECIPE

pytestmark = pytest.mark.slow

RESUME = "  Run the same command again to resume."


def _interrupt(*arguments: str, once: str) -> tuple[int, list[str]]:
    """Status and lines of stderr of a command that is interrupted when ``once`` appears there."""
    process = warm.Process("-m", "discli", *arguments, session=True)
    while once not in process.stderr():
        assert process.poll() is None, process.stderr()
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    done = process.wait()
    return done.returncode, [line.rstrip() for line in done.stderr.splitlines()]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all") / "digits"
    unpack_digits(folder)
    return folder


@pytest.mark.parametrize("workers", ["0", "2"])
def test_encode(images, tmp_path, workers):
    command = ["encode", str(images), "--res", "128", "--codec", "rgb", "--workers", workers]
    command += ["--out", str(tmp_path / "a.h5")]
    status, lines = _interrupt(*command, once="1,797 images")
    assert status == 130
    assert lines[-2].startswith("discli: ")
    assert lines[-1].startswith("  Run the same command again")
    assert not (tmp_path / "a.h5").exists()
    again = warm.run("-m", "discli", *command)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "a.h5").exists()


def test_train_writes_a_checkpoint_first(digits_file, tmp_path):
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    settings = ["--set", "train.steps=100000", "--set", "train.checkpoint_every=100000"]
    status, lines = _interrupt(
        "train", str(recipe), "--data", str(digits_file), "--out", str(run), *settings, once="training 100,000 steps"
    )
    assert status == 75
    assert lines[-2].startswith("discli: SIGINT: checkpoint of step ")
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_sample_keeps_what_is_drawn(tiny_run, tmp_path):
    out = tmp_path / "samples"
    status, lines = _interrupt(
        "sample", str(tiny_run), "-n", "50000", "--batch-size", "4", "--out", str(out), once="Sampling from"
    )
    assert status == 130
    assert lines[-2:] == ["discli: Interrupted.", RESUME]
    assert (out / "manifest.json").is_file()


def _listen() -> None:
    """A shell starts what it puts in the background deaf to Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_eval_fid_has_nothing_to_go_on_from(tiny_run):
    command = [sys.executable, "-m", "discli", "eval-fid", str(tiny_run), "-n", "50000", "--features", "random"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_listen
    ) as process:
        # It says nothing before the first progress, so: when torch has been loaded, and a moment later.
        while "libtorch_cpu" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(3)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert errors.splitlines()[-2:] == ["discli: Interrupted.", "  Run the same command again to start over."]
