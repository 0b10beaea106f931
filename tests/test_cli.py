"""The command line: quick help, one-line mistakes, exit statuses."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pydantic", "h5py", "PIL", "diffusers")
_IMPORTED = """
import json, sys
sys.argv = ["discli", *{arguments!r}]
from discli.cli import main
try:
    main()
except SystemExit:
    pass
{then}
print(json.dumps([name for name in {heavy!r} if name in sys.modules]), file=sys.stderr)
"""


def _heavy_modules(arguments: list[str], then: str = "") -> list[str]:
    code = _IMPORTED.format(arguments=arguments, heavy=HEAVY, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


def _discli(*arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "discli", *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sample", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    # A command's own help makes typer, from 0.29 on, import pydantic itself.
    unavoidable = {"pydantic"} if len(arguments) > 1 else set()
    assert set(_heavy_modules(arguments)) <= unavoidable


def test_that_test_can_fail():
    assert _heavy_modules(["--help"], then="import numpy") == ["numpy"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["smaple"], "sample"),
        (["train"], "Missing argument"),
        (["train", "no-such-recipe"], "No recipe at no-such-recipe"),
        (["train", "quickstart", "--set", "model.depth=4"], "model.depth"),
        (["train", "quickstart"], "no data file"),
        (["sample", "nowhere"], "No checkpoint in nowhere"),
        (["sample", "-n", "0"], "-n 0"),
        (["sample", "--sed", "1"], "--seed"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, says, tmp_path):
    done = _discli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in _discli("--debug", "train", "no-such-recipe", cwd=tmp_path).stderr


def test_every_commands_help_ends_with_an_example_that_names_it():
    listing = _discli("--help").stdout.split("Commands:")[1]
    commands = [line.split()[0] for line in listing.splitlines() if line.startswith("  ") and line[2] != " "]
    commands.remove("Example:")
    assert {"quickstart", "encode", "train", "sample", "eval-fid", "ema", "export", "info"} == set(commands)
    for command in commands:
        text = " ".join(_discli(command, "--help").stdout.split())
        assert f"Example: discli {command}" in text
