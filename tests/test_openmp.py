"""Threads that wait must not spin on cores that other processes need."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("set_by_the_user", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_the_openmp_runtime_is_told_not_to_spin_before_torch_loads_it(set_by_the_user, expected):
    """OMP_DISPLAY_ENV lets the runtime itself say what it has understood, when it is loaded."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    code = "import os, sys, discli; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import torch"],
        env=clean | {"OMP_DISPLAY_ENV": "verbose"} | set_by_the_user,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [expected]
    told = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if told and expected != "None":  # GNU's runtime, and not another
        assert f"'{expected}'" in told[0]
