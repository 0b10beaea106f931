"""Two of pytest side by side: every test in one of them, those of a file in the same, fixtures as always."""

import re
import subprocess
import sys

from tests.readme import ROOT

TESTS = """
import os, pathlib, pytest

@pytest.fixture(scope="module")
def module():
    yield
    note("torn down")

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{__name__} {what} {os.getpid()}\\n")

@pytest.mark.parametrize("number", range(2))
def test_it(module, number):
    note(number)
    __import__("time").sleep(0.2)

def test_shared(shared):
    pass

def test_after():
    pass
"""
# Between the tests of one file, pytest runs those of others with the same parameter.
SHARED = """
import pytest

@pytest.fixture(scope="session", params=range(2))
def shared():
    pass
"""


def test_each_file_runs_once_and_in_one_of_them(tmp_path):
    for folder, name in (("a", "one"), ("a", "two"), ("b", "three"), ("c", "four")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"test_{name}.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(SHARED)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        f"--rootdir={tmp_path}",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-p", "tests.lanes", "--taken", str(tmp_path / "taken"), str(tmp_path)]
    environment = {"PATH": "", "NOTES": str(tmp_path / "notes")}
    lanes = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [lane.communicate()[0] for lane in lanes]
    assert [lane.returncode for lane in lanes] == [0, 0], said
    passed = [int(re.search(r"(\d+) passed", one)[1]) for one in said if "passed" in one]
    assert sum(passed) == 4 * 5
    notes = [line.rsplit(" ", 1) for line in (tmp_path / "notes").read_text().splitlines()]
    files = ("test_one", "test_two", "test_three", "test_four")
    assert sorted(what for what, _ in notes) == sorted(f"{f} {what}" for f in files for what in ("0", "1", "torn down"))
    for file in files:
        assert len({lane for what, lane in notes if what.startswith(f"{file} ")}) == 1
