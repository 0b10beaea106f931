"""The CPU backend: the reference's values and gradients, the same bits however it is run."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from discli.scan.cpu import backend as cpu
from discli.scan.cpu import threads as cpu_threads
from discli.scan.cpu import torch_loop
from tests.bench.scan import forward_and_backward, peak_bytes
from tests.scan.cases import assert_matches_reference, random_inputs, values_and_gradients

SCANS = {"numba": cpu.bidirectional_scan, "torch loop": torch_loop.bidirectional_scan}


@pytest.fixture(params=SCANS)
def scan(request):
    return SCANS[request.param]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 65, 258, 1026])
def test_values_and_gradients_at_every_length(scan, length):
    if scan is torch_loop.bidirectional_scan and length > 258:
        length = 65  # the loop is slow, and has no chunks that could end
    assert_matches_reference(scan, random_inputs(2, length, 48 if length < 1000 else 20), 2e-5)


@pytest.mark.parametrize("d_inner", [1, 7, 33, 129])
def test_odd_widths_and_batch_of_one(scan, d_inner):
    assert_matches_reference(scan, random_inputs(1, 19, d_inner), 2e-5)


@pytest.mark.parametrize(("d_state", "d_conv", "dt_rank"), [(1, 1, 1), (5, 2, 3), (16, 4, 23), (64, 6, 40)])
def test_other_state_sizes_kernels_and_ranks(scan, d_state, d_conv, dt_rank):
    assert_matches_reference(scan, random_inputs(2, 21, 40, d_state=d_state, d_conv=d_conv, dt_rank=dt_rank), 2e-5)


@pytest.mark.parametrize("delta", [1e-6, 50.0])
@pytest.mark.parametrize("A_log", [None, (-6.0, 4.0)])
def test_extreme_steps_and_learned_decays(scan, delta, A_log):
    assert_matches_reference(scan, random_inputs(2, 70, 32, delta=delta, A_log=A_log), 1e-4)


@pytest.mark.parametrize("d_inner", [24, 64])
def test_inputs_that_are_not_contiguous(scan, d_inner):
    assert_matches_reference(scan, random_inputs(3, 33, d_inner, contiguous=False), 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(scan, dtype):
    """Errors are those of rounding y and the gradients, which the reference's float64 does not do."""
    assert_matches_reference(scan, random_inputs(2, 65, 32, dtype=dtype, param_dtype=torch.float32), 2e-2)


@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_conv"), [(5, 65, 64, 4), (2, 300, 320, 4), (3, 140, 40, 4), (2, 140, 64, 6)]
)
def test_bf16_is_float32_arithmetic_rounded_once(batch, length, d_inner, d_conv):
    inputs = random_inputs(batch, length, d_inner, d_conv=d_conv, dtype=torch.bfloat16, param_dtype=torch.float32)
    found = values_and_gradients(cpu.bidirectional_scan, inputs)
    leaves = inputs.map(lambda t: t.detach().float().requires_grad_())
    dy = torch.randn(inputs.x.shape, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    y = cpu.bidirectional_scan(*leaves)
    gradients = torch.autograd.grad(y, list(leaves.named().values()), dy)
    expected = {"y": y.detach(), **dict(zip(leaves.named(), gradients, strict=True))}
    assert {name: found[name].dtype for name in ("y", "x", "z")} == dict.fromkeys(("y", "x", "z"), torch.bfloat16)
    assert [name for name in found if not torch.equal(found[name], expected[name].to(found[name].dtype))] == []


def test_float64_inputs_are_scanned_in_float64():
    assert_matches_reference(cpu.bidirectional_scan, random_inputs(2, 65, 20, dtype=torch.float64), 1e-11)


def test_gradcheck():
    inputs = random_inputs(1, 3, 2, d_state=2, d_conv=2, dtype=torch.float64)

    def scan(*tensors):
        half = len(tensors[2:]) // 2
        return cpu.bidirectional_scan(
            *tensors[:2], *(type(inputs.forward)(*p) for p in (tensors[2 : 2 + half], tensors[2 + half :]))
        )

    assert torch.autograd.gradcheck(scan, tuple(inputs.named().values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [1, 2, 3, 5])  # some share out a sample's channels, some whole samples
def test_the_number_of_threads_changes_no_bit(two_threads, batch, threads, dtype):
    inputs = random_inputs(batch, 300, 320, dt_rank=19, dtype=dtype, param_dtype=torch.float32)
    torch.set_num_threads(threads)
    together = values_and_gradients(cpu.bidirectional_scan, inputs)
    torch.set_num_threads(1)
    alone = values_and_gradients(cpu.bidirectional_scan, inputs)
    assert [name for name in alone if not torch.equal(together[name], alone[name])] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_samples_gradients_are_the_same_whatever_stands_beside_it(two_threads, dtype, contiguous):
    shape = {"dt_rank": 19, "dtype": dtype, "param_dtype": torch.float32, "contiguous": contiguous}
    inputs = random_inputs(5, 150, 320, **shape)
    dy = torch.randn_like(inputs.x)

    def gradients_of_inputs(i: slice) -> list[torch.Tensor]:
        x, z = inputs.x[i], inputs.z[i]
        y = cpu.bidirectional_scan(x, z, inputs.forward, inputs.backward)
        return [y, *torch.autograd.grad(y, [x, z], dy[i])]

    together = gradients_of_inputs(slice(0, 5))
    for i in range(5):
        alone = gradients_of_inputs(slice(i, i + 1))
        assert all(torch.equal(a[0], t[i]) for a, t in zip(alone, together, strict=True))


def test_a_sample_comes_out_the_same_whatever_stands_beside_it(two_threads):
    inputs = random_inputs(5, 65, 48)
    together = cpu.bidirectional_scan(*inputs)
    for i in range(5):
        alone = cpu.bidirectional_scan(inputs.x[i : i + 1], inputs.z[i : i + 1], inputs.forward, inputs.backward)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("repeat", range(3))
def test_repeating_changes_no_bit(two_threads, repeat):
    inputs = random_inputs(4, 130, 64)
    first, second = (values_and_gradients(cpu.bidirectional_scan, inputs) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("dtype", "d_inner"),
    [(torch.float32, 64), (torch.float32, 24), (torch.bfloat16, 64), (torch.float16, 40), (torch.float64, 16)],
)
def test_x_and_z_as_halves_of_one_tensor_give_the_same_bits(dtype, d_inner):
    inputs = random_inputs(3, 21, d_inner, dtype=dtype, param_dtype=torch.float32)
    apart = values_and_gradients(cpu.bidirectional_scan, inputs)

    def joined(x, z, forward, backward):
        return cpu.bidirectional_scan_of_halves(torch.cat([x, z], dim=-1), forward, backward)

    found = values_and_gradients(joined, inputs)
    assert [name for name in apart if not torch.equal(found[name], apart[name])] == []


def test_the_gradient_of_halves_comes_in_one_piece():
    inputs = random_inputs(16, 64, 768, dt_rank=24)
    xz = torch.cat([inputs.x, inputs.z], dim=-1).detach().requires_grad_()
    dy = torch.randn_like(inputs.x)

    def run():
        y = cpu.bidirectional_scan_of_halves(xz, inputs.forward, inputs.backward)
        torch.autograd.grad(y, [xz, *inputs.forward, *inputs.backward], dy)

    one = 4 * inputs.x.numel()
    assert 3 * one < peak_bytes(run, torch.device("cpu")) <= 4.5 * one  # dx and dz beside it would make it five


def test_the_operator_on_halves_keeps_pytorchs_promises():
    inputs = random_inputs(2, 9, 64)
    xz = torch.cat([inputs.x, inputs.z], dim=-1).detach().requires_grad_()
    torch.library.opcheck(torch.ops.discli.cpu_scan.default, (xz, None, *inputs.forward, *inputs.backward))


def test_compiles_without_a_graph_break():
    inputs = random_inputs(2, 17, 16)
    compiled = torch.compile(cpu.bidirectional_scan, fullgraph=True, backend="aot_eager")
    found, expected = (values_and_gradients(f, inputs) for f in (compiled, cpu.bidirectional_scan))
    torch.testing.assert_close(found, expected)


def test_the_operator_keeps_pytorchs_promises():
    inputs = random_inputs(2, 9, 16)
    arguments = (inputs.x, inputs.z, *inputs.forward, *inputs.backward)
    torch.library.opcheck(torch.ops.discli.cpu_scan.default, arguments)


def test_autocast_leaves_the_state_in_float32():
    inputs = random_inputs(2, 65, 32, dtype=torch.bfloat16, param_dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = cpu.bidirectional_scan(*inputs)
    assert inside.dtype == torch.bfloat16
    assert torch.equal(inside, cpu.bidirectional_scan(*inputs))


def test_a_process_that_has_scanned_can_fork_workers_that_scan():
    code = textwrap.dedent("""
        import torch
        from torch.utils.data import DataLoader
        from discli.scan.cpu import backend as cpu
        from tests.scan.cases import random_inputs
        torch.set_num_threads(2)
        inputs = random_inputs(2, 20, 16)
        expected = cpu.bidirectional_scan(*inputs).detach()
        class Data(torch.utils.data.Dataset):
            def __len__(self): return 4
            def __getitem__(self, i):
                with torch.no_grad():
                    return cpu.bidirectional_scan(*inputs)
        loader = DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork")
        assert all(torch.equal(y, expected) for y in loader)
        assert torch.equal(cpu.bidirectional_scan(*inputs).detach(), expected)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_first_process_says_that_it_compiles_and_the_next_does_not(tmp_path):
    code = "import discli.scan.cpu.engine"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        for _ in range(2)
    ]
    assert [process.stderr.count("Compiling") for process in said] == [1, 0]
    assert not any(process.stdout for process in said)


def test_several_python_threads_may_scan_at_once(two_threads):
    from concurrent.futures import ThreadPoolExecutor

    inputs = random_inputs(2, 65, 32)
    expected = cpu.bidirectional_scan(*inputs)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cpu.bidirectional_scan(*inputs), range(16)))
    assert all(torch.equal(y, expected) for y in found)


def test_where_openmp_is_out_of_reach_own_threads_give_the_same_bits(two_threads, monkeypatch):
    inputs = random_inputs(3, 140, 48)
    expected = values_and_gradients(cpu.bidirectional_scan, inputs)
    monkeypatch.setattr(cpu_threads, "_gomp_parallel", None)
    found = values_and_gradients(cpu.bidirectional_scan, inputs)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_without_numba_pytorch_does_the_work(monkeypatch):
    inputs = random_inputs(2, 17, 24)
    fast = cpu.bidirectional_scan(*inputs)
    monkeypatch.setattr(cpu, "HAS_NUMBA", False)
    assert_matches_reference(cpu.bidirectional_scan, inputs, 2e-5)
    assert not torch.equal(cpu.bidirectional_scan(*inputs), fast)  # another order of additions: it did change hands


def test_bf16_rows_are_read_and_written_without_copies_of_the_batch():
    inputs = random_inputs(32, 64, 768, dt_rank=24, dtype=torch.bfloat16, param_dtype=torch.float32)
    dy = torch.randn_like(inputs.x)
    peak = peak_bytes(lambda: forward_and_backward(cpu.bidirectional_scan, inputs, dy), torch.device("cpu"))
    one = 2 * inputs.x.numel()
    assert 3 * one < peak <= 5 * one  # y, dx and dz are three, each in bf16; with float32 copies it would be twelve


@pytest.mark.parametrize(("batch", "length"), [(32, 64), (8, 256), (2, 1024)])
def test_forward_and_backward_hold_at_most_four_tensors_of_the_inputs_size(two_threads, batch, length):
    inputs = random_inputs(batch, length, 768, dt_rank=24)
    dy = torch.randn_like(inputs.x)
    peak = peak_bytes(lambda: forward_and_backward(cpu.bidirectional_scan, inputs, dy), torch.device("cpu"))
    one = 4 * inputs.x.numel()
    assert 3 * one < peak <= 4 * one  # y, dx and dz are three


def test_a_nan_shows_and_stays_in_its_sample():
    inputs = random_inputs(2, 70, 20)
    x = inputs.x.detach().clone()
    x[0, 30, 3] = torch.nan
    y = cpu.bidirectional_scan(x, *inputs[1:])
    assert y[0].isnan().all()  # x_proj mixes the channels, the two directions reach every token
    assert y[1].isfinite().all()
