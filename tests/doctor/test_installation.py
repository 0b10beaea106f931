"""Versions against what discli's own metadata asks for."""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from discli.doctor import installation
from discli.doctor.finding import CheckContext
from discli.doctor.imports import REQUIRED, Imported


def _with(**changed: Imported) -> CheckContext:
    """A machine where everything is in order but the packages given, by what discli imports of them."""
    context = CheckContext()
    context.__dict__["imports"] = {
        module: Imported(changed.get(module, Imported("99"))[0]) for module in REQUIRED.values()
    }
    context.__dict__["imports"] |= changed
    return context


def _found(check, context: CheckContext):
    return {finding.name: finding for finding in check(context)}


def test_every_required_package_is_looked_at():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {Requirement(line).name.replace("_", "-") for line in project["dependencies"]} == set(REQUIRED)
    assert str(installation.required_versions()["torch"]) == ">=2.6"


def test_a_package_that_is_too_old_broken_or_missing_is_an_error_with_its_fix():
    context = _with(
        torch=Imported("2.5.1+cu121"), h5py=Imported(error="OSError: libhdf5.so"), numba=Imported(missing=True)
    )
    found = _found(installation.packages, context)
    assert (found["torch"].verdict, found["torch"].found) == ("error", "2.5.1+cu121, but discli needs >=2.6")
    assert 'pip install --upgrade "torch>=2.6"' in found["torch"].fix
    assert (found["torch"].details["importable"], found["h5py"].details["importable"]) == (True, False)
    assert "libhdf5.so" in found["h5py"].found
    assert "--force-reinstall" in found["h5py"].fix
    assert (found["numba"].verdict, found["numba"].found) == ("error", "not installed")
    assert found["torchvision"].verdict == found["packages"].verdict == "ok"
    assert "diffusers" in found["packages"].details["versions"]
    assert "h5py" not in found["packages"].details["versions"]


def test_a_torchvision_made_for_another_torch_is_warned_of(monkeypatch):
    versions = {"torch": "2.11.0+cpu", "torchvision": "0.25.0"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.10.0", "scipy; extra == 'scipy'"])
    (finding,) = installation.pairing(CheckContext())
    assert finding.verdict == "warning"
    assert "built for torch==2.10.0" in finding.found
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.11.0"])
    assert list(installation.pairing(CheckContext())) == []


def test_an_old_python_is_an_error(monkeypatch):
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.10.4")
    (finding,) = installation.python(CheckContext())
    assert finding.verdict == "error"
    assert "3.10.4" in finding.found
    assert sys.executable in finding.found
