"""Results on stdout, all else on stderr; colours only for those who want them."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.cli.commands import discli

_COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-8]|9[0-7])[;m]")


def _on_a_terminal(*arguments: str, **environment: str) -> str:
    """Everything a command writes, where stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "discli", *arguments]
    base = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    env = base | {"TERM": "xterm-256color"} | environment
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    while True:
        try:
            some = os.read(ours, 4096)
        except OSError:  # how Linux says that nobody holds the other end
            break
        if not some:
            break
        written += some
    process.wait()
    os.close(ours)
    return written.decode()


@pytest.fixture
def images(tmp_path):
    """A folder of three."""
    (tmp_path / "images").mkdir()
    for shade in range(3):
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(tmp_path / "images" / f"{shade}.png")
    return tmp_path / "images"


def test_no_colour_where_none_is_wanted(images, tmp_path):
    flags = ["encode", str(images), "--res", "8", "--workers", "0", "--out"]
    assert _COLOUR.search(_on_a_terminal(*flags, str(tmp_path / "a.h5"))), "nothing to suppress: proves nothing"
    assert not _COLOUR.search(_on_a_terminal(*flags, str(tmp_path / "b.h5"), NO_COLOR="1"))
    assert "\x1b" not in _on_a_terminal(*flags, str(tmp_path / "c.h5"), TERM="dumb")


def test_a_pipe_gets_the_result_and_no_escape_codes(images, tmp_path):
    out = str(tmp_path / "a.h5")
    done = discli("encode", str(images), "--res", "8", "--workers", "0", "--out", out)
    assert done.stdout == f"{out}\n"
    assert "3 images" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert json.loads(discli("info", out, "-n", "0", "--json").stdout)["contract"]["num_samples"] == 3


def test_a_reader_that_leaves_early_is_no_error():
    listing = f"{sys.executable} -m discli recipe show quickstart --resolved | head -n 1"
    done = subprocess.run(["bash", "-c", listing], capture_output=True, text=True)
    assert done.stdout == 'name = "quickstart"\n'
    assert done.stderr == ""


def test_names_that_are_no_text_are_printed_escaped(tmp_path):
    run = tmp_path / "b\udcff [/x]"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text('{"recipe": {"name": "\\ud800"}, "data_file": "\\ud800"}')
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (run / "scores.jsonl").write_text('{"step": 1, "\\ud800": 1.0}\n')
    for command in (["info", str(run)], ["runs", str(tmp_path)], ["report", str(run)]):
        done = discli(*command, COLUMNS="300")
        assert done.returncode == 0, done.stderr
        assert "\\udcff [/x]" in done.stdout
    assert "\\ud800" in (run / "report.html").read_text()
