"""Memory that was freed is there for the next step, without a fault for each of its pages."""

import os
import platform
import subprocess
import sys

import pytest

_STEPS = """
import resource, sys, torch
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del (step := [torch.ones(5_000_000) for _ in range(8)])[:]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_COMMAND = """
import contextlib, sys
from discli.cli import main
sys.argv = ["discli", "--version"]
with contextlib.suppress(SystemExit):
    main()
"""


def faults(code: str, **environment: str) -> int:
    """Of the last of four steps, each of 160 MB."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code + _STEPS], env=clean | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs GNU's C library")
def test_a_command_keeps_what_it_frees_and_leaves_what_the_user_has_set():
    kept, otherwise = faults(_COMMAND), faults("")
    assert kept < 20
    assert otherwise > 2 * kept + 40  # a fault a page: 39,000, or 76 where all pages are large
    assert faults(_COMMAND, MALLOC_TRIM_THRESHOLD_="131072") > 2 * kept + 40
