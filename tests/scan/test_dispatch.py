"""Which backend runs, why, and what is said when it can't."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from discli.runtime.errors import DiscliError
from discli.scan import (
    DirectionParams,
    assume_backend,
    bidirectional_scan,
    bidirectional_scan_of_halves,
    choose_backend,
)
from discli.scan.triton import backend
from tests import readme
from tests.scan.cases import random_inputs

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("DISCLI_SCAN", raising=False)


def test_a_cpu_gets_the_cpu_kernels():
    assert choose_backend("auto", CPU).name == "cpu"


def test_the_variable_wins_over_auto_and_says_so(monkeypatch):
    monkeypatch.setenv("DISCLI_SCAN", "reference")
    assert choose_backend("auto", CPU) == ("reference", "DISCLI_SCAN asks for it")


def test_a_recipe_that_names_one_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv("DISCLI_SCAN", "reference")
    assert choose_backend("cpu", CPU).name == "cpu"


@pytest.mark.parametrize("name", ["cuda", "triton", "mamba-ssm"])
def test_forcing_one_that_cannot_run_is_an_error_with_the_remedy(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(DiscliError, match=name) as caught:
        choose_backend(name, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("d_state", "named"), [(16, False), (17, True), (32, True), (64, True)])
def test_states_that_spill_registers_are_named_where_the_backend_is_chosen(d_state, named, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ("spill" in choose_backend("triton", CPU, d_state).reason) is named
    assert "spill" not in choose_backend("cpu", CPU, d_state).reason


def test_an_unknown_name_lists_the_known():
    with pytest.raises(DiscliError, match="auto, reference, cpu, cuda, triton, mamba-ssm"):
        choose_backend("cudnn", CPU)


def test_every_runnable_backend_gives_the_same_through_the_one_function():
    inputs = random_inputs(2, 17, 16)
    expected = bidirectional_scan(*inputs, backend="reference")
    for name in ("auto", "cpu"):
        torch.testing.assert_close(bidirectional_scan(*inputs, backend=name), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("triton", torch.float32), ("cuda", torch.bfloat16)])
def test_an_assumed_backend_runs_on_shapes_where_it_could_not_run(name, dtype, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with FakeTensorMode(allow_non_fake_inputs=True), assume_backend(name), torch.device("cuda"):
        x, z = torch.empty(2, 17, 16, dtype=dtype), torch.empty(2, 17, 16, dtype=dtype)
        params = [DirectionParams(*map(torch.empty_like, p)) for p in random_inputs(2, 17, 16)[2:]]
        assert bidirectional_scan(x, z, *params).shape == x.shape
    inputs = random_inputs(2, 17, 16)
    assert bidirectional_scan(*inputs).shape == inputs[0].shape  # and afterwards the choice is as before


def test_the_dispatch_compiles_without_a_graph_break():
    inputs = random_inputs(2, 17, 16)
    compiled = torch.compile(bidirectional_scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), bidirectional_scan(*inputs))


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize("compiled", [False, True])
def test_halves_of_one_tensor_are_scanned_by_every_backend(name, compiled):
    inputs = random_inputs(1, 5, 64)
    xz = torch.cat([inputs.x, inputs.z], dim=-1).detach().requires_grad_()

    def of_halves(xz):
        return bidirectional_scan_of_halves(xz, inputs.forward, inputs.backward, name)

    def of_two(xz):
        return bidirectional_scan(*xz.chunk(2, dim=-1), inputs.forward, inputs.backward, name)

    if compiled:
        of_halves = torch.compile(of_halves, fullgraph=True, backend="aot_eager")
    found, expected = of_halves(xz), of_two(xz)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(y, [xz, *inputs.forward], torch.ones_like(y)) for y in (found, expected))
    torch.testing.assert_close(*gradients)


def test_commands_start_without_the_compiler():
    code = "import sys, discli.training.train, discli.sampling.sample, discli.evaluation.evaluate;"
    code += " sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_of_the_readme_runs():
    [example] = readme.fenced((readme.ROOT / "discli/scan/README.md").read_text(), "python")
    names: dict[str, object] = {}
    exec(example, names)
    assert names["y"].shape == names["x"].shape == (2, 16, 32)


@pytest.mark.parametrize(("version", "old"), [("3.2.0", True), ("3.3.0+git123", False), ("3.10.0", False)])
def test_triton_needs_to_be_new_enough(version, old, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", version)
    assert ("too old" in (backend.unavailable(torch.device("cpu")) or "")) is old
