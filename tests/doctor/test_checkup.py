"""``discli doctor`` as a command: the whole of it once, and what its status and its output depend on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from discli.doctor.checkup import SECTIONS, checkup
from discli.doctor.finding import Report
from tests import warm
from tests.doctor.packages import WRONG_INDEX, write_module

# The command with the sections named, or with all of them.
_DOCTOR = """
import sys, discli.doctor.checkup
sections = sys.argv.pop(1)
discli.doctor.checkup.SECTIONS = tuple(sections.split(",")) if sections else discli.doctor.checkup.SECTIONS
sys.argv[0] = "discli"
from discli.cli import main
main()
"""


def _doctor(
    sections: str, *flags: str, tmp_path: Path, torch_loaded: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """In an empty home; HF_HUB_OFFLINE is unset, for --offline alone asks nothing of the network."""
    hidden = ("HF_HUB_OFFLINE", "DISCLI_SCAN", "DISCLI_INCEPTION_WEIGHTS", "TRITON_INTERPRET", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    homes = {"TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path / "hf")}
    command = ["-c", _DOCTOR, sections, "doctor", "--offline", *flags]
    if torch_loaded:
        return warm.run(*command, env={**kept, **homes, **environment})
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**kept, **homes, **environment}
    )


def _findings(record: dict) -> dict[str, dict]:
    return {finding["name"]: finding for section in record["sections"] for finding in section["findings"]}


@pytest.mark.slow
def test_this_machine_is_well(tmp_path):
    done = _doctor("", "--json", tmp_path=tmp_path)
    record = json.loads(done.stdout)
    found = _findings(record)
    errors = {name: finding for name, finding in found.items() if finding["verdict"] == "error"}
    assert (done.returncode, record["errors"], errors) == (0, 0, {})
    report = Report.model_validate_json(done.stdout)
    assert json.loads(report.model_dump_json()) == record
    assert len(record["sections"]) == len(SECTIONS)
    chosen = found["auto"]["details"]["backend"]
    assert 0 < found[chosen]["details"]["error"] <= 1e-4
    assert {"Python", "torch", "torchvision", "mamba-ssm", "processor", "hub", "Inception"} <= set(found)
    assert (found["hub"]["details"]["reachable"], found["Inception"]["verdict"]) == (None, "warning")
    assert "Checking: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_broken_pair_is_an_error_that_hides_nothing_else(tmp_path):
    fakes = write_module(tmp_path / "fakes", "torchvision", WRONG_INDEX)
    done = _doctor("installation", "--json", tmp_path=tmp_path, PYTHONPATH=str(fakes))
    found = _findings(json.loads(done.stdout))
    assert done.returncode == 1
    for name in ("torchvision", "torch-fidelity"):
        assert found[name]["verdict"] == "error"
        assert "different package indexes" in found[name]["found"]
        assert "from the same index" in found[name]["fix"]
    assert found["torch"]["verdict"] == "ok"
    assert {"h5py", "numba", "safetensors"} <= set(found["packages"]["details"]["versions"])


def test_without_torch_it_says_so_once_and_ends_in_order(tmp_path):
    fakes = write_module(
        tmp_path / "fakes", "torch", 'raise OSError("libcudart.so.13: cannot open shared object file")'
    )
    done = _doctor("", "--json", tmp_path=tmp_path, torch_loaded=False, PYTHONPATH=str(fakes))
    record = json.loads(done.stdout)
    found = _findings(record)
    assert done.returncode == 1
    assert "libcudart.so.13" in found["torch"]["found"]
    for name in SECTIONS[1:]:
        assert found[name]["verdict"] == "warning"
        assert "not checked" in found[name]["found"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("weights", "status", "last"),
    [
        (
            "",
            0,
            "Everything that training, sampling and scoring need works on this machine; the network was not tried.",
        ),
        ("gone.pth", 1, "1 error."),
    ],
)
def test_the_table_is_plain_in_a_pipe_and_its_last_line_is_the_verdict(weights, status, last, tmp_path):
    done = _doctor("weights", tmp_path=tmp_path, DISCLI_INCEPTION_WEIGHTS=weights)
    assert done.returncode == status
    assert done.stdout.splitlines()[-1] == last
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    (inception,) = [line for line in done.stdout.splitlines() if "  Inception  " in line]
    assert inception.startswith("error" if status else "warning")
    assert ("gone.pth: no such file" in done.stdout) == bool(status)


def test_a_check_that_raises_is_an_error_and_not_the_end(monkeypatch):
    import discli.doctor.checkup
    from discli.doctor import machine

    def broken(context):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(discli.doctor.checkup, "SECTIONS", ("machine", "no_such_section"))
    monkeypatch.setattr(machine, "CHECKS", {"memory": broken, "processor": machine.processor})
    report = checkup()
    found = {finding.name: finding for section in report.sections for finding in section.findings}
    assert report.errors == 2
    assert found["memory"].found == "ZeroDivisionError: division by zero"
    assert "in broken" in found["memory"].details["traceback"]
    assert found["processor"].verdict in ("ok", "warning")
    assert "ModuleNotFoundError" in found["no_such_section"].found
