"""The CUDA walk back: its own source on a CPU, lane by lane, within the real backward pass; and compiled for GPUs.

The emulation is a shared library made by g++. All that surrounds the walk is Triton's, and so interpreted here:
`test_everything_here_under_the_interpreter` runs this file again in a process of its own.
"""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from discli.scan.cuda import backend, launch, nvrtc
from discli.scan.triton import backend as triton
from tests.bench import triton_static
from tests.scan.cases import pass_interpreted, random_inputs, values_and_gradients

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_everything_here_under_the_interpreter():
    pass_interpreted(Path(__file__))


@cache
def emulation(exact: int = 0) -> ctypes.CDLL:
    """Compiled once a process."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("the emulation needs a C++ compiler")
    made = Path(tempfile.mkdtemp(prefix="discli-walk-")) / "walk.so"
    defines = {**launch.DEFINES, "WARPS": 1, "EXACT": exact, "EMULATE": 1}
    options = [f"-D{name}={value}" for name, value in defines.items()]
    source = ["-x", "c++", str(launch.SOURCE)]
    subprocess.run([compiler, "-O1", "-std=c++17", "-shared", "-fPIC", "-w", *options, *source, "-o", made], check=True)
    walk = ctypes.CDLL(str(made))
    shutil.rmtree(made.parent)  # it is loaded
    return walk


# Under the interpreter nothing new would be found, and the other process has run it.
once = pytest.mark.skipif(INTERPRETED, reason="needs no interpreter")


@pytest.fixture
def device(monkeypatch) -> str:
    if not INTERPRETED:
        if problem := backend.unavailable(torch.device("cuda")):
            pytest.skip(f"{problem} The interpreter's run covers this test.")
        return "cuda"
    walk = emulation()
    monkeypatch.setattr(launch, "CHANNELS", 32)  # the emulation is of one warp
    monkeypatch.setattr(launch, "run", lambda args, programs, device: walk.run(ctypes.byref(args)))
    return "cpu"


@pytest.mark.parametrize(("batch", "length", "d_inner"), [(1, 1, 8), (2, 3, 40), (1, 17, 32), (1, 34, 8)])
def test_values_are_triton_s_and_gradients_nearly(device, batch, length, d_inner):
    inputs = random_inputs(batch, length, d_inner, dtype=torch.bfloat16, param_dtype=torch.float32, device=device)
    assert backend.takes(inputs.x, 16)
    found = values_and_gradients(backend.bidirectional_scan, inputs)
    expected = values_and_gradients(triton.bidirectional_scan, inputs)
    assert torch.equal(found["y"], expected["y"])
    for name, want in expected.items():
        error = (found[name] - want).abs().max() / want.abs().max().clamp_min(1e-30)
        assert error.item() < 2e-2, name  # bf16 rounds by 4e-3 a factor


def test_gradients_are_the_same_bits_every_time(device):
    inputs = random_inputs(1, 5, 40, dtype=torch.bfloat16, param_dtype=torch.float32, device=device)
    first, second = (values_and_gradients(backend.bidirectional_scan, inputs) for _ in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_it_is_passed_over_where_its_gradients_are_not_triton_s(device, monkeypatch):
    backend._differs.cache_clear()
    assert backend._differs(torch.device(device)) is None
    right = launch.walk_back

    def wrong(*given):
        dconv, ddraw, *parts = right(*given)
        return (dconv, ddraw * 1.1, *parts)

    monkeypatch.setattr(launch, "walk_back", wrong)
    backend._differs.cache_clear()
    assert "differ" in backend._differs(torch.device(device))

    def broken(*given):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(launch, "walk_back", broken)
    backend._differs.cache_clear()
    assert "libcuda" in backend._differs(torch.device(device))
    backend._differs.cache_clear()


@pytest.mark.parametrize(("dtype", "d_state", "d_inner"), [("float32", 16, 8), ("bfloat16", 4, 8), ("bfloat16", 16, 6)])
def test_what_it_is_not_written_for_goes_to_triton(device, dtype, d_state, d_inner, monkeypatch):
    monkeypatch.setattr(launch, "run", None)
    inputs = random_inputs(
        1, 3, d_inner, d_state=d_state, dtype=getattr(torch, dtype), param_dtype=torch.float32, device=device
    )
    first, second = (values_and_gradients(module.bidirectional_scan, inputs) for module in (backend, triton))
    assert all(torch.equal(first[name], second[name]) for name in first)


@once
@pytest.mark.parametrize(("exact", "tolerance"), [(0, 2e-3), (1, 2e-6)])
@pytest.mark.parametrize(("batch", "length", "width"), [(1, 1, 32), (2, 3, 40), (1, 35, 72)])
def test_the_walk_alone_is_autograd_s(exact, tolerance, batch, length, width, monkeypatch):
    """dB, dC, dA, dD and the bias's gradient, which come in float32; dx and ddraw are rounded to bf16."""
    walk = emulation(exact)
    monkeypatch.setattr(launch, "CHANNELS", 32)
    monkeypatch.setattr(launch, "run", lambda args, programs, device: walk.run(ctypes.byref(args)))
    rng = torch.Generator().manual_seed(0)
    N = launch.N

    def normal(*shape):
        return torch.randn(shape, generator=rng)

    x, draw = normal(2, batch, length, width).bfloat16(), (0.3 * normal(2, batch, length, width)).bfloat16()
    dy, BC = normal(batch, length, width).bfloat16(), normal(2, batch, length, 2 * N)
    A = -torch.arange(1.0, N + 1) * torch.exp(0.1 * normal(2, width, N))
    D, bias = normal(2, width), normal(2, width) - 4
    leaves = [t.double().requires_grad_() for t in (x, draw, BC, A, D, bias)]
    y, states = _scan_with_states(*leaves)
    y.backward(dy.double())

    given = (dy, x, draw.view(2, -1, width), BC.view(2, -1, 2 * N), A, D, bias, states)
    dx, ddraw, dBC, dparams = launch.walk_back(*given)
    params = dparams.sum(0)
    found = {
        "x": dx, "draw": ddraw.view_as(draw), "BC": dBC.sum(0).view_as(BC), "A": params[:, :N].mT,
        "D": params[:, N], "bias": params[:, N + 1],
    }  # fmt: skip
    for (name, got), leaf in zip(found.items(), leaves, strict=True):
        limit = 1e-2 if name in ("x", "draw") else tolerance
        error = (got.double() - leaf.grad).abs().max() / leaf.grad.abs().max().clamp_min(1e-30)
        assert error.item() < limit, name


def _scan_with_states(x, draw, BC, A, D, bias):
    """Both directions' y added up, in float64, and the states that the forward pass keeps."""
    _, batch, length, width = x.shape
    half, N, steps = (length + 1) // 2, launch.N, launch.STEPS
    chunks = -(-half // steps)
    states = torch.zeros(2, batch, 2 * chunks, N // 4, width, 4)
    y: dict[int, torch.Tensor] = {}
    for direction in range(2):
        h = x.new_zeros(batch, width, N)
        for i in range(2 * half):
            k = i % half
            if k % steps == 0:
                slot = i // half * chunks + k // steps
                states[direction, :, slot] = h.detach().view(batch, width, N // 4, 4).transpose(1, 2).float()
            t = 2 * half - 1 - i if direction else i
            if t >= length:
                continue
            delta = torch.nn.functional.softplus(draw[direction][:, t] + bias[direction])[..., None]
            B, C = BC[direction][:, t, None].split(N, -1)
            h = torch.exp(delta * A[direction]) * h + delta * x[direction][:, t, :, None] * B
            y[t] = y.get(t, 0) + (h * C).sum(-1) + D[direction] * x[direction][:, t]
    return torch.stack([y[t] for t in range(length)], dim=1), states


@once
@pytest.mark.skipif(nvrtc.library() is None, reason="this PyTorch brings no NVRTC")
@pytest.mark.parametrize("arch", [80, 89, 90, 100, 120])
def test_it_compiles_for_gpus_within_its_registers_and_is_kept(arch, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cubin = launch.cubin(arch)
    (kept,) = (tmp_path / "discli" / "cubins").iterdir()
    assert kept.read_bytes() == cubin
    monkeypatch.setattr(nvrtc, "_compile", None)  # the second time, nothing is
    assert launch.cubin(arch) == cubin
    if (folder := triton_static.tools()) is None:
        return
    usage, code = (triton_static.run(folder / "cuobjdump", how, kept) for how in ("-res-usage", "-sass"))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None
    assert int(found[1]) <= 168  # six programs would fit an H100's registers; its shared memory takes five
    assert int(found[2]) == 0
    loops = triton_static.state_loops(triton_static.instructions_of(code), 1, 1)
    back = next(loop for loop in loops if loop.shuffles)
    assert back.shuffles == 3  # a step, where sums by shuffles alone take 40
    assert back.barriers == 0
    assert back.spills == 0
    assert back.instructions <= 310  # per 512 states


@once
def test_source_that_does_not_compile_is_an_error_with_the_compiler_s_words(monkeypatch, tmp_path):
    if nvrtc.library() is None:
        pytest.skip("this PyTorch brings no NVRTC")
    from discli.runtime.errors import DiscliError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "wrong.cu").write_text("int f() { return nowhere; }")
    with pytest.raises(DiscliError, match="nowhere"):
        nvrtc.compile_cubin(tmp_path / "wrong.cu", [], 90, {})
    assert not nvrtc.cache_folder().exists()


@once
def test_says_why_it_cannot_run_on_a_cpu():
    problem = backend.unavailable(torch.device("cpu"))
    assert problem is not None
    assert "\n" not in problem
