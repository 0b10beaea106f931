"""Versions against what discli's own metadata asks for."""

import sys
from importlib import metadata

import pytest

from discli.doctor import installation
from discli.doctor.finding import Setting
from discli.doctor.imports import REQUIRED, Imported


def _with(**changed: Imported) -> Setting:
    """A machine where everything is in order but the packages given, by what discli imports of them."""
    setting = Setting()
    setting.__dict__["imports"] = {
        module: Imported(changed.get(module, Imported("99"))[0]) for module in REQUIRED.values()
    }
    setting.__dict__["imports"] |= changed
    return setting


def _found(check, setting: Setting):
    return {finding.name: finding for finding in check(setting)}


def test_every_required_package_is_looked_at():
    assert set(installation.required_versions()) == set(REQUIRED)
    assert installation.required_versions()["torch"] == "2.6"


@pytest.mark.parametrize(
    ("version", "minimum", "enough"),
    [
        ("2.6.0+cu124", "2.6", True),
        ("2.10", "2.9.1", True),
        ("2.6", "2.6.0", True),
        ("2.5.9", "2.6", False),
        ("2.6rc1", "2.7", False),
        ("10", "9.9", True),
    ],
)
def test_release_numbers_are_compared_as_numbers(version, minimum, enough):
    assert installation.at_least(version, minimum) is enough


def test_a_package_that_is_too_old_broken_or_missing_is_a_problem_with_its_remedy():
    setting = _with(
        torch=Imported("2.5.1+cu121"), h5py=Imported(error="OSError: libhdf5.so"), numba=Imported(missing=True)
    )
    found = _found(installation.packages, setting)
    assert (found["torch"].verdict, found["torch"].found) == ("problem", "2.5.1+cu121 is older than 2.6")
    assert 'pip install --upgrade "torch>=2.6"' in found["torch"].remedy
    assert (found["torch"].details["importable"], found["h5py"].details["importable"]) == (True, False)
    assert "libhdf5.so" in found["h5py"].found
    assert "--force-reinstall" in found["h5py"].remedy
    assert (found["numba"].verdict, found["numba"].found) == ("problem", "not installed")
    assert found["torchvision"].verdict == found["packages"].verdict == "ok"
    assert "diffusers" in found["packages"].details["versions"]
    assert "h5py" not in found["packages"].details["versions"]


def test_a_torchvision_made_for_another_torch_is_noted(monkeypatch):
    versions = {"torch": "2.11.0+cpu", "torchvision": "0.25.0"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.10.0", "scipy; extra == 'scipy'"])
    (finding,) = installation.pairing(Setting())
    assert finding.verdict == "note"
    assert "made for torch 2.10.0" in finding.found
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.11.0"])
    assert list(installation.pairing(Setting())) == []


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.10.4")
    (finding,) = installation.python(Setting())
    assert finding.verdict == "problem"
    assert "3.10.4" in finding.found
    assert sys.executable in finding.found
