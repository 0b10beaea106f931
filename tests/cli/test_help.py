"""Help: quick, the same everywhere, and with examples that would run."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from discli.cli import app
from discli.runtime.signals import EXIT_INTERRUPTED
from tests.cli.commands import COMMANDS, discli, parse

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


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["recipe", "new", "--help"], ["--version"], ["recipe", "list"]]
)
def test_help_imports_nothing_heavy(arguments):
    # A command's own help makes typer, from 0.29 on, import pydantic itself.
    unavoidable = {"pydantic"} if len(arguments) > 1 else set()
    assert set(_heavy_modules(arguments)) <= unavoidable


def test_that_test_can_fail():
    assert _heavy_modules(["--help"], then="import numpy") == ["numpy"]


def test_a_commands_help_is_what_is_tested_here():
    shown = discli("sample", "--help").stdout
    assert shown.startswith("Usage: discli sample")
    assert " ".join(shown.split()).endswith(f"--help Show this message and exit. {COMMANDS['sample',].epilog}")


@pytest.mark.parametrize("path", [(), ("recipe",)])
def test_a_list_of_commands_says_what_each_does_and_cuts_nothing_off(path):
    _, commands = discli(*path, "--help", COLUMNS="80").stdout.split("Commands:")
    listed = [line for line in commands.partition("Example:")[0].splitlines() if line.strip()]
    assert len(listed) == sum(command[:-1] == path for command in COMMANDS if command)
    assert not [line for line in listed if not line.endswith(".") or line.endswith("...")]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "discli")
def test_h_is_help_everywhere(path, capsys):
    app([*path, "-h"], prog_name="discli", standalone_mode=False)
    short = capsys.readouterr().out
    app([*path, "--help"], prog_name="discli", standalone_mode=False)
    assert short == capsys.readouterr().out
    assert short.startswith(" ".join(("Usage: discli", *path)))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "discli")
def test_help_ends_with_an_example_that_names_the_command_and_parses(path):
    command = COMMANDS[path]
    with command.make_context("discli", [], resilient_parsing=True, **COMMANDS[()].context_settings) as ctx:
        shown = " ".join(command.get_help(ctx).split())
    examples = command.epilog.removeprefix("Example: ")
    assert shown.endswith(f"Example: {examples}")
    assert examples.startswith(" ".join(("discli", *path)))
    for example in examples.split(" && "):
        _parse(example)


def _parse(example: str) -> None:
    """All flags of an example resolved against its command, which is not run."""
    program, *words = shlex.split(example.split(" > ")[0])
    assert program == "discli"
    parse(words)


@pytest.mark.parametrize(
    "wrong",
    ["discli train quickstart --dta x.h5", "discli encode x --crop amd", "discli ema runs/mine", "discli trian x"],
)
def test_the_parsing_of_examples_can_fail(wrong):
    with pytest.raises(Exception, match=r"No such option|not one of|Missing|No such command"):
        _parse(wrong)


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_every_flag_says_what_it_is(path):
    silent = [parameter.name for parameter in COMMANDS[path].params if not parameter.help]
    assert silent == []


def test_exit_statuses_are_documented():
    shown = discli("--help").stdout
    documented = re.findall(r"^    (\d+) ", shown, re.MULTILINE)
    assert documented == ["0", "1", "2", str(EXIT_INTERRUPTED), "130"]


@pytest.mark.parametrize("path", [(), ("recipe",)])
def test_a_name_alone_shows_its_help(path):
    assert discli(*path).stdout.startswith(" ".join(("Usage: discli", *path)))
