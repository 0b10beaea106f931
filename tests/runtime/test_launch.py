"""What is said of the processes beside the first where one of them has ended."""

import subprocess
from contextlib import ExitStack
from tempfile import TemporaryFile

import pytest

from discli.runtime import launch

NOTICED = "echo 'discli: Internal error: DistBackendError: closed.' >&2; echo '  Run again.' >&2; exit 1"
SAID = "echo 'discli: a.h5: Input/output error.' >&2; echo '  Check the disk.' >&2; exit 1"


@pytest.mark.parametrize(
    ("programs", "says"),
    [
        (["true", "true"], None),
        ([SAID], "Process 2 of 2 ended with status 1: a.h5: Input/output error."),
        ([NOTICED, "kill -9 $$"], "Process 3 of 3 ended with SIGKILL (too little memory?)."),
        ([NOTICED, SAID], "Process 3 of 3 ended with status 1: a.h5: Input/output error."),
        ([NOTICED, "true"], "Process 2 of 3 ended with status 1: Internal error: DistBackendError: closed."),
    ],
)
def test_the_one_that_was_first_to_end_is_named_and_what_was_wrong(programs, says, monkeypatch):
    team = launch._Team()
    monkeypatch.setattr(launch, "_team", team)
    with ExitStack() as stack:
        for program in programs:
            said = stack.enter_context(TemporaryFile())
            team.others.append((subprocess.Popen(["sh", "-c", program], stderr=said), said))
        why = launch.lost(seconds=10)
    assert (why and why.message) == says
