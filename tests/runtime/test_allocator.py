"""Memory that was freed is there for the next step, without a fault for each of its pages."""

import os
import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource, sys, torch
faults = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del (step := [torch.ones(5_000_000) for _ in range(8)])[:]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[1:]))
"""
_COMMAND = """
import contextlib, sys
from discli.cli import main
sys.argv = ["discli", "--version"]
with contextlib.suppress(SystemExit):
    main()
"""


def faults(code: str, **environment: str) -> int:
    """Of eight steps, each of 160 MB, after a first one."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code + _STEPS], env=clean | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs GNU's C library")
def test_a_command_keeps_what_it_frees_and_leaves_what_the_user_has_set():
    kept, otherwise = faults(_COMMAND), faults("")
    # Some hundreds, where the system moves pages about; else one a page: 39,000 a step, or 76 where all are large. The
    # C library learns to keep some after two steps or so.
    assert kept < 10_000
    assert otherwise > 2 * kept + 40
    assert faults(_COMMAND, MALLOC_TRIM_THRESHOLD_="131072") > 2 * kept + 40
