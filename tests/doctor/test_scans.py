"""Backends that compute wrongly are found out, and the others are not."""

import math

import pytest
import torch
from torch import Tensor

from discli.doctor import scans
from discli.doctor.finding import Setting
from discli.doctor.scan_trial import Trial
from discli.runtime.errors import DiscliError
from discli.scan import choose_backend, reference
from discli.scan.cpu import backend as cpu
from discli.scan.triton import backend as triton

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Sequences of which the reference is done in no time, and on one thread even on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(scans, "CHECKED", 8)
    monkeypatch.setattr(scans, "TIMED", 8)
    monkeypatch.setattr(scans, "pick_device", lambda name: CPU)
    for variable in ("DISCLI_SCAN", "TRITON_INTERPRET"):
        monkeypatch.delenv(variable, raising=False)
    yield
    torch.set_num_threads(threads)


def _found() -> dict:
    return {finding.name: finding for check in scans.CHECKS.values() for finding in check(Setting())}


class _WrongGradient(torch.autograd.Function):
    """The identity with a gradient of a thousandth too much."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        return dy * 1.001


def _tf32(x: Tensor, z: Tensor, forward, backward) -> Tensor:
    """The scan with the weights of its products cut to 10 bits after the leading one, as TF32 does."""

    def cut(t: Tensor) -> Tensor:
        return t + ((t.detach().view(torch.int32) & ~0x1FFF).view(torch.float32) - t.detach())

    forward, backward = (p._replace(x_proj=cut(p.x_proj), dt_weight=cut(p.dt_weight)) for p in (forward, backward))
    return cpu.bidirectional_scan(x, z, forward, backward)


def test_every_backend_that_a_recipe_can_name_is_looked_at():
    with pytest.raises(DiscliError) as unknown:
        choose_backend("?", CPU)
    assert unknown.value.hint == f"Use one of: auto, {', '.join(scans.BACKENDS)}."


def test_healthy_backends_are_right_and_timed():
    found = _found()
    assert found["reference"].verdict == found["cpu"].verdict == found["auto"].verdict == "ok"
    assert found["triton"].verdict == found["mamba-ssm"].verdict == "note"
    assert found["auto"].details["backend"] == "cpu"
    details = found["cpu"].details
    assert 0 < details["errors"]["float32"]["largest"] < 2e-5
    assert details["tokens_per_second"] == pytest.approx(2 * 8 / details["seconds"])
    assert details["times_reference"] == pytest.approx(found["reference"].details["seconds"] / details["seconds"])


@pytest.mark.parametrize(
    ("wrong", "tensor"),
    [
        (lambda x, z, f, b: reference.bidirectional_scan(x, z, f, b) * 1.001, ""),
        (lambda x, z, f, b: reference.bidirectional_scan(x, _WrongGradient.apply(z), f, b), "gradient of z"),
        (lambda x, z, f, b: reference.bidirectional_scan(x, z, b, f), ""),
    ],
    ids=["value", "gradient", "directions"],
)
def test_wrong_numbers_of_the_scan_that_auto_takes_are_a_problem(wrong, tensor, monkeypatch):
    monkeypatch.setattr(cpu, "bidirectional_scan", wrong)
    found = _found()
    assert found["reference"].verdict == "ok"
    assert found["cpu"].verdict == "problem"
    assert "computes wrongly" in found["cpu"].found
    assert tensor in found["cpu"].found
    assert "DISCLI_SCAN=reference" in found["cpu"].remedy


def test_a_backend_that_raises_is_a_problem_and_the_next_one_is_still_looked_at(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(cpu, "bidirectional_scan", broken)
    found = _found()
    assert found["cpu"].verdict == "problem"
    assert found["cpu"].found == "RuntimeError: no kernel image is available for execution"
    assert "broken" in found["cpu"].details["traceback"]
    assert found["triton"].verdict == "note"


def test_wrong_numbers_of_a_scan_that_auto_passes_over_are_a_note(monkeypatch):
    monkeypatch.setattr(triton, "unavailable", lambda device: None)
    monkeypatch.setattr(triton, "bidirectional_scan", lambda x, z, f, b: reference.bidirectional_scan(x, z, b, f))
    found = _found()["triton"]
    assert found.verdict == "note"
    assert "computes wrongly" in found.found
    assert "auto does not use it" in found.found


def test_a_forced_backend_that_cannot_run_is_a_problem(monkeypatch):
    monkeypatch.setenv("DISCLI_SCAN", "triton")
    with pytest.raises(DiscliError, match="DISCLI_SCAN"):
        list(scans.auto(Setting()))
    assert {one.name: one.verdict for one in scans.backends(Setting())}["cpu"] == "ok"


def test_the_tolerances_tell_rounding_from_a_coarser_number_format():
    for dtype in (torch.float32, torch.bfloat16):
        trial = Trial(CPU, dtype, 40)
        for scan in (cpu.bidirectional_scan, reference.bidirectional_scan):
            assert trial.errors(scan).largest < trial.tolerance / 3
    trial = Trial(CPU, torch.float32, 40)
    assert trial.errors(_tf32).largest > 3 * trial.tolerance
    assert trial.errors(lambda x, z, f, b: cpu.bidirectional_scan(x, z, f, b) * math.nan).largest == math.inf
