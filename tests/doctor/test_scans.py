"""A backend that computes wrongly is found out, and a right one is not."""

import math

import pytest
import torch
from torch import Tensor

from discli.doctor import scans
from discli.doctor.finding import CheckContext
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
    monkeypatch.setattr(scans, "_L", 8)
    monkeypatch.setattr(scans, "pick_device", lambda name: CPU)
    for variable in ("DISCLI_SCAN", "TRITON_INTERPRET"):
        monkeypatch.delenv(variable, raising=False)
    yield
    torch.set_num_threads(threads)


def _found() -> dict:
    return {finding.name: finding for check in scans.CHECKS.values() for finding in check(CheckContext())}


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
    return original(x, z, forward, backward)


original = cpu.bidirectional_scan


def test_every_backend_that_a_recipe_can_name_is_looked_at():
    with pytest.raises(DiscliError) as unknown:
        choose_backend("?", CPU)
    assert unknown.value.hint == f"Use one of: auto, {', '.join(scans.BACKENDS)}."


def test_the_backend_in_use_is_compared_and_the_others_are_available_or_not():
    found = _found()
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["auto"].details["backend"] == "cpu"
    assert 0 < found["cpu"].details["error"] < 2e-5
    assert [found[name].details["available"] for name in scans.BACKENDS] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("wrong", "tensor"),
    [
        (lambda x, z, f, b: reference.bidirectional_scan(x, z, f, b) * 1.001, None),
        (lambda x, z, f, b: reference.bidirectional_scan(x, _WrongGradient.apply(z), f, b), "the gradient of z"),
        (lambda x, z, f, b: reference.bidirectional_scan(x, z, b, f), None),
        (_tf32, None),
    ],
    ids=["value", "gradient", "directions", "TF32"],
)
def test_wrong_numbers_of_the_scan_in_use_are_an_error(wrong, tensor, monkeypatch):
    monkeypatch.setattr(scans, "_L", 40)
    monkeypatch.setattr(cpu, "bidirectional_scan", wrong)
    finding = _found()["cpu"]
    assert finding.verdict == "error"
    assert finding.details["error"] > scans._TOLERANCE[torch.float32]
    assert tensor in (None, finding.details["tensor"])
    assert "DISCLI_SCAN=reference" in finding.fix


def test_a_backend_that_raises_is_an_error_and_the_next_one_is_still_looked_at(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(cpu, "bidirectional_scan", broken)
    found = _found()
    assert found["cpu"].verdict == "error"
    assert found["cpu"].found == "RuntimeError: no kernel image is available for execution"
    assert "broken" in found["cpu"].details["traceback"]
    assert found["triton"].verdict == "ok"


def test_what_breaks_in_a_scan_that_auto_passes_over_is_a_warning(monkeypatch):
    def broken(device):
        raise RuntimeError("half installed")

    monkeypatch.setattr(triton, "unavailable", broken)
    assert _found()["triton"].verdict == "warning"


def test_on_a_gpu_an_unavailable_kernel_comes_with_its_fix(monkeypatch):
    monkeypatch.setattr(triton, "unavailable", lambda device: "Triton is not installed; pip install triton.")
    (finding,) = scans._backend("triton", triton, torch.device("cuda"), False)
    assert (finding.verdict, finding.fix) == ("warning", "pip install triton")


def test_a_forced_backend_that_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv("DISCLI_SCAN", "triton")
    with pytest.raises(DiscliError, match="DISCLI_SCAN"):
        list(scans.auto(CheckContext()))
    assert {one.name: one.verdict for one in scans.backends(CheckContext())}["cpu"] == "ok"


def test_the_tolerances_leave_room_for_rounding_and_none_for_nan(monkeypatch):
    monkeypatch.setattr(scans, "_L", 40)
    for dtype, tolerance in scans._TOLERANCE.items():
        for module in (cpu, reference):
            assert scans.scan_error(module, CPU, dtype)[0] < tolerance / 3
    monkeypatch.setattr(cpu, "bidirectional_scan", lambda *given: original(*given) * math.nan)
    assert scans.scan_error(cpu, CPU, torch.float32)[0] == math.inf
