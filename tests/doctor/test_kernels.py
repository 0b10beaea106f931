"""mamba-ssm absent, without its kernel, made for another torch, or whole: told apart, each with its remedy."""

import sys

import pytest
import torch

from discli.doctor import kernels
from discli.doctor.finding import Setting
from discli.doctor.imports import Imported, try_imports
from tests.doctor.packages import NO_KERNEL, OTHER_TORCH, write_module

_MAMBA = ("mamba_ssm.ops.selective_scan_interface", "selective_scan_cuda")
_CONV = ("causal_conv1d", "causal_conv1d_cuda")


def _look(check, modules, **known: Imported):
    setting = Setting()
    setting.__dict__["imports"] = known or try_imports(modules)
    (finding,) = check(setting)
    return finding


def test_mamba_without_its_cuda_module_is_to_be_built_anew_without_the_cache(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_module(tmp_path, _MAMBA[0], NO_KERNEL, version="2.3.2"))
    finding = _look(kernels.mamba_ssm, _MAMBA)
    assert (finding.verdict, finding.details["state"]) == ("note", "without kernel")
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in finding.remedy
    assert "--no-cache-dir" in finding.remedy


def test_mamba_that_imports_without_its_cuda_module_is_no_better(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_module(tmp_path, _MAMBA[0], "", version="2.3.2"))
    finding = _look(kernels.mamba_ssm, _MAMBA)
    assert (finding.verdict, finding.details["state"]) == ("note", "without kernel")
    assert finding.found.startswith("2.3.2, without its CUDA kernel")


def test_kernels_built_for_another_torch_say_so(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_module(tmp_path, _MAMBA[0], NO_KERNEL))
    write_module(tmp_path, _MAMBA[1], OTHER_TORCH)
    write_module(tmp_path, _CONV[0], "")
    write_module(tmp_path, _CONV[1], OTHER_TORCH)
    for check, modules in ((kernels.mamba_ssm, _MAMBA), (kernels.causal_conv1d, _CONV)):
        finding = _look(check, modules)
        assert (finding.verdict, finding.details["state"]) == ("note", "broken")
        assert "undefined symbol" in finding.found
        assert "--force-reinstall" in finding.remedy


def test_whole_ones_are_ok_and_absent_ones_a_note():
    for check, (package, module) in ((kernels.mamba_ssm, _MAMBA), (kernels.causal_conv1d, _CONV)):
        whole = _look(check, (), **{package: Imported("2.3.2"), module: Imported("")})
        assert (whole.verdict, whole.details["state"]) == ("ok", "whole")
        absent = _look(check, (), **{package: Imported(missing=True), module: Imported(missing=True)})
        assert (absent.verdict, absent.details["state"]) == ("note", "absent")
        assert "optional" in absent.found


def test_the_remedy_for_absent_ones_is_told_where_there_is_a_gpu(monkeypatch):
    gone = {name: Imported(missing=True) for name in _MAMBA}
    for on_cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda on_cuda=on_cuda: on_cuda)
        assert ("MAMBA_KEEP_CUDA_BUILD" in _look(kernels.mamba_ssm, (), **gone).remedy) is on_cuda


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_triton_without_a_driver_or_at_all():
    assert "no use without a GPU" in _look(kernels.triton, (), triton=Imported(missing=True)).found
    pytest.importorskip("triton")
    finding = _look(kernels.triton, (), triton=Imported("3.9.0"))
    assert finding.verdict == "note"
    assert "no driver" in finding.found


def test_a_compiler_that_cc_names_in_vain(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    (finding,) = kernels.c_compiler(Setting())
    assert finding.verdict == "note"
    assert "is no program" in finding.found


def test_a_compiler_without_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", sys.executable)  # a program that is there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "without_python_headers", lambda: str(tmp_path))
    (finding,) = kernels.c_compiler(Setting())
    assert finding.verdict == "note"
    assert f"no Python.h in {tmp_path}" in finding.found
    assert finding.remedy.startswith("For Triton, install python3.")
    monkeypatch.setattr(kernels, "without_python_headers", lambda: None)
    (finding,) = kernels.c_compiler(Setting())
    assert finding.verdict == "ok"
