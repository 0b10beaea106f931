"""The Triton scan against float64: natively on a CUDA machine, and everywhere under Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, which other tests may already have done. So
`test_everything_here_under_the_interpreter` runs this file again in a process of its own.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch

from discli.scan import DirectionParams
from discli.scan.triton import backend, pipeline
from tests.bench import triton_static
from tests.scan.cases import ScanInputs, assert_matches_reference, pass_interpreted, random_inputs, values_and_gradients

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytest.importorskip("triton")


@pytest.fixture
def device() -> str:
    if INTERPRETED:
        return "cpu"
    if problem := backend.unavailable(torch.device("cuda")):
        pytest.skip(f"{problem} The interpreter's run covers this test.")
    return "cuda"


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_everything_here_under_the_interpreter():
    pass_interpreted(Path(__file__))


@pytest.mark.parametrize(
    ("batch", "length", "d_inner"),
    [(1, 1, 3), (2, 2, 8), (2, 3, 8), (2, 17, 40), (1, 130 if INTERPRETED else 258, 3), (2, 5, 70), (3, 4, 64)],
)
def test_values_and_gradients_match_float64(device, batch, length, d_inner):
    inputs = random_inputs(batch, length, d_inner, device=device)
    assert_matches_reference(backend.bidirectional_scan, inputs, 1e-5)


def test_a_long_sequence_matches_float64(device):
    if device == "cuda":
        assert_matches_reference(backend.bidirectional_scan, random_inputs(1, 1026, 2, device=device), 1e-5)
    else:  # 130 tokens with gradients are six chunks already, and the interpreter takes its time
        _assert_values_match(random_inputs(1, 258, 2), 1e-5)


@pytest.mark.parametrize("delta", [1e-6, 50.0])
def test_extreme_deltas_match_float64(device, delta):
    inputs = random_inputs(2, 9, 6, delta=delta, device=device)
    assert_matches_reference(backend.bidirectional_scan, inputs, 2e-5)


def test_extreme_decays_match_float64(device):
    inputs = random_inputs(2, 9, 6, A_log=(-6.0, 4.0), device=device)
    assert_matches_reference(backend.bidirectional_scan, inputs, 1e-5)


@pytest.mark.parametrize(("d_state", "d_conv"), [(1, 1), (5, 2), (32, 6)])
def test_any_state_and_convolution_size_matches_float64(device, d_state, d_conv):
    inputs = random_inputs(1, 9, 6, d_state=d_state, d_conv=d_conv, device=device)
    assert_matches_reference(backend.bidirectional_scan, inputs, 1e-5)


def test_strided_inputs_match_float64(device):
    assert_matches_reference(backend.bidirectional_scan, random_inputs(2, 9, 6, contiguous=False, device=device), 1e-5)


def test_time_major_inputs_match_float64(device):
    inputs = random_inputs(2, 9, 6, device=device)
    x, z = (t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in inputs[:2])
    assert_matches_reference(backend.bidirectional_scan, inputs._replace(x=x, z=z), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 8e-3)])
def test_half_precision_with_float32_parameters(device, dtype, tolerance):
    inputs = random_inputs(2, 9, 8, dtype=dtype, param_dtype=torch.float32, device=device)
    assert_matches_reference(backend.bidirectional_scan, inputs, tolerance)


def test_autocast_leaves_float32_inputs_and_the_state_alone(device):
    inputs = random_inputs(1, 5, 6, device=device)
    with torch.autocast(device, torch.bfloat16):
        assert_matches_reference(backend.bidirectional_scan, inputs, 1e-5)


def test_float64_inputs_get_a_float64_state(device):
    inputs = random_inputs(1, 7, 5, dtype=torch.float64, device=device)
    assert_matches_reference(backend.bidirectional_scan, inputs, 1e-9)


def test_gradcheck(device):
    inputs = random_inputs(1, 3, 2, dt_rank=1, dtype=torch.float64, device=device)

    def scan(x, z, *params):
        return backend.bidirectional_scan(x, z, DirectionParams(*params[:7]), DirectionParams(*params[7:]))

    assert torch.autograd.gradcheck(scan, list(inputs.named().values()), fast_mode=True)


def test_a_sample_is_the_same_alone_and_in_a_batch(device):
    # One weight in a row, so that the matrix products are exact and can't depend on the number of rows.
    inputs = _with_one_weight_a_row(random_inputs(3, 9, 6, dt_rank=2, device=device))
    y = backend.bidirectional_scan(*inputs)
    alone = inputs._replace(x=inputs.x[1:2], z=inputs.z[1:2])
    assert torch.equal(backend.bidirectional_scan(*alone)[0], y[1])


def test_gradients_are_the_same_bits_every_time(device):
    inputs = random_inputs(2, 9, 40, device=device)
    first, second = (values_and_gradients(backend.bidirectional_scan, inputs) for _ in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_without_gradients_the_values_are_the_same_and_nothing_is_kept(device):
    inputs = random_inputs(1, 9, 6, device=device)
    y = backend.bidirectional_scan(*inputs)
    with torch.no_grad():
        assert torch.equal(backend.bidirectional_scan(*inputs), y)
        packed = pipeline.pack(inputs.forward, inputs.backward, torch.float32)
        assert len(torch.ops.discli.triton_scan(inputs.x, inputs.z, *packed, False)) == 1


@pytest.mark.parametrize("needs_grad", [True, False])
def test_opcheck(device, needs_grad):
    inputs = random_inputs(1, 3, 4, device=device)
    packed = pipeline.pack(inputs.forward, inputs.backward, torch.float32)
    leaves = [t.detach().requires_grad_(needs_grad) for t in (inputs.x, inputs.z, *packed)]
    torch.library.opcheck(torch.ops.discli.triton_scan.default, (*leaves, needs_grad))


def test_opcheck_of_the_backward_operator(device):
    inputs = random_inputs(1, 3, 4, device=device)
    packed = pipeline.pack(inputs.forward, inputs.backward, torch.float32)
    tensors = [t.detach() for t in (inputs.x, inputs.z, *packed)]
    y, *kept = torch.ops.discli.triton_scan(*tensors, True)
    torch.library.opcheck(torch.ops.discli.triton_scan_backward.default, (torch.ones_like(y), *tensors, *kept))


def test_compiles_without_a_graph_break(device):
    compiled = torch.compile(
        lambda *inputs: backend.bidirectional_scan(*inputs), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for length in (3, 6):
        assert_matches_reference(compiled, random_inputs(1, length, 4, device=device), 1e-5)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on any device")
def test_says_why_it_cannot_run_on_a_cpu():
    problem = backend.unavailable(torch.device("cpu"))
    assert problem is not None
    assert "CUDA" in problem
    assert "\n" not in problem


@pytest.mark.skipif(not INTERPRETED, reason="only the interpreter runs on a CPU")
def test_the_interpreter_runs_on_a_cpu():
    assert backend.unavailable(torch.device("cpu")) is None


def test_an_old_triton_is_refused_with_its_remedy(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.2.0")
    problem = backend.unavailable(torch.device("cuda"))
    assert problem is not None
    assert "3.2.0 is too old" in problem
    assert "upgrade PyTorch" in problem


@pytest.mark.skipif(INTERPRETED, reason="the interpreter needs no compiler")
def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    problem = backend.unavailable(torch.device("cuda"))
    assert problem is not None
    assert "install gcc" in problem


@pytest.mark.skipif(INTERPRETED, reason="the interpreter needs no compiler")
def test_missing_headers_of_python_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.delenv("CPATH", raising=False)
    monkeypatch.delenv("C_INCLUDE_PATH", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda name, scheme: str(tmp_path))
    problem = backend.unavailable(torch.device("cuda"))
    assert problem is not None
    assert f"not in {tmp_path}; install python3." in problem
    (tmp_path / "Python.h").touch()
    assert backend.unavailable(torch.device("cuda")) is None


@pytest.fixture
def nothing_compiled(monkeypatch, tmp_path):
    if triton_static.tools() is None:
        pytest.skip("this Triton brings no cuobjdump and nvdisasm")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


# Of each scan's two loops, what Triton 3.6 to 3.8 come to at the very most: instructions per 512 states, spills,
# barriers, shuffles, accesses of shared and of global memory in a turn. Before the loads were moved ahead, 3.6 had
# 172 and 211 instructions, 24 and 112 spills and 32 barriers forward, where it now has 129 and 156, 1 spill, none.
_MOST = {
    "scan_forward": ((145, 23, 0, 0, 0, 14), (175, 27, 0, 0, 0, 20)),
    "scan_backward": ((136, 4, 8, 0, 16, 16), (425, 28, 28, 160, 56, 43)),
}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled under the interpreter")
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_scans_take_no_more_than_was_counted(arch, nothing_compiled):
    compiled = triton_static.compile_all(arch=arch, only=[*_MOST, "conv_silu"])
    assert compiled["conv_silu"].instructions <= 700  # 40 for a token of a channel, both directions, where it had 76
    assert compiled["scan_forward"].registers <= 128  # more, and 6 programs share a multiprocessor, not 8
    for name, most in _MOST.items():
        loops = compiled[name].loops
        assert len(loops) == 2, name
        for loop, limits in zip(loops, most, strict=True):
            found = (loop.instructions, loop.spills, loop.barriers, loop.shuffles, loop.shared, loop.memory)
            assert all(count <= limit for count, limit in zip(found, limits, strict=True)), (name, found, limits)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled under the interpreter")
@pytest.mark.parametrize(("dtype", "arch"), [("fp32", 89), ("fp16", 120)])  # RTX 4090, RTX 5090; the above is bf16
def test_the_kernels_compile_for_other_gpus_with_hardly_a_spill(dtype, arch, nothing_compiled):
    for name, kernel in triton_static.compile_all(dtype, arch).items():
        assert kernel.stack <= (136 if name.startswith("scan") else 0), name  # bytes
        assert kernel.shared <= 48 << 10, name


def _assert_values_match(inputs: ScanInputs, tolerance: float) -> None:
    from discli.scan import reference

    with torch.no_grad():
        y = backend.bidirectional_scan(*inputs)
        truth = reference.bidirectional_scan(*inputs.map(lambda t: t.detach().double()))
    assert ((y - truth).abs().max() / truth.abs().max()).item() <= tolerance


def _with_one_weight_a_row(inputs: ScanInputs) -> ScanInputs:
    def thin(p: DirectionParams) -> DirectionParams:
        x_proj, dt_weight = torch.zeros_like(p.x_proj), torch.zeros_like(p.dt_weight)
        for weight in (x_proj, dt_weight):
            rows = torch.arange(weight.shape[0])
            weight[rows, rows % weight.shape[1]] = 0.5
        return p._replace(x_proj=x_proj, dt_weight=dt_weight)

    return inputs._replace(forward=thin(inputs.forward), backward=thin(inputs.backward))
