"""Compiled blocks: the same answers, one graph a kind of block, and a plain word where nothing compiles."""

import pytest
import torch
from torch import nn

from discli.model.block import Block, PairedBlock
from discli.model.compiled import compile_blocks, with_compiled_blocks
from discli.runtime.errors import DiscliError
from tests.model.small import small

CPU = torch.device("cpu")


@pytest.fixture
def without_inductor(monkeypatch):
    """Graphs are caught as always and run as they are: in a second, and without a compiler."""
    for kind in (Block, PairedBlock):
        monkeypatch.setattr(kind, "compile", lambda self, **how: nn.Module.compile(self, backend="aot_eager", **how))
    monkeypatch.setattr("discli.model.compiled.shutil.which", lambda name: name)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def inputs():
    return torch.randn(2, 3, 8, 8), torch.tensor([10, 700]), torch.tensor([1, 3])


@pytest.mark.parametrize(
    ("choices", "kinds"),
    [
        ({}, 1),
        ({"scan_order": "zigzag", "skip": "gated"}, 1),
        ({"mixer": "attention", "conditioning": "adaln-zero"}, 1),
        ({"grid_conv": {"name": "depthwise", "place": "instead"}, "scan_order": "four-split"}, 1),
        ({"mixer": ["mamba", "mamba", "attention"], "grid_conv": "depthwise"}, 2),
    ],
)
def test_deep_networks_need_two_graphs_a_kind_of_block_and_answer_alike(choices, kinds, without_inductor):
    torch.manual_seed(0)
    network = small(num_classes=4, depth=11, **choices)
    x, t, y = inputs()
    expected = network(x, t, y)
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()

    compile_blocks(network, CPU)
    out = network(x, t, y)
    out.square().sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * kinds
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(out, expected)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_compiled_twin_shares_the_parameters_and_leaves_the_network_as_it_is(without_inductor):
    network = small(num_classes=4)
    twin = with_compiled_blocks(network, CPU)
    assert all(mine is theirs for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True))
    with torch.no_grad():
        arguments = inputs()
        torch.testing.assert_close(twin(*arguments), network(*arguments))
    assert not any(block._compiled_call_impl for block in network.blocks)
    assert all(block._compiled_call_impl for block in list(twin.blocks)[1:])


def test_on_a_gpu_no_kernel_is_chosen_by_its_time(monkeypatch):
    found = []
    monkeypatch.setattr(Block, "compile", lambda self, **how: found.append(how))
    compile_blocks(small(), torch.device("cuda"))
    assert [how["options"] for how in found] == 4 * [{"deterministic": True}]
    torch.compile(nn.Identity(), **found[0])  # refuses options that it does not know


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr("discli.model.compiled.shutil.which", lambda name: None)
    with pytest.raises(DiscliError, match="compiler") as refused:
        compile_blocks(small(), CPU)
    assert "CXX" in refused.value.hint


@pytest.mark.slow
def test_with_the_real_compiler():
    torch.manual_seed(0)
    network = small(num_classes=4, depth=5).requires_grad_(False)
    try:
        twin = with_compiled_blocks(network, CPU)
    except DiscliError:
        pytest.skip("no C++ compiler here")
    x, t, y = inputs()
    torch.testing.assert_close(twin(x, t, y), network(x, t, y), rtol=1e-4, atol=1e-5)
