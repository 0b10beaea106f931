"""Residual sum and norm: the kernel against PyTorch's operations, and the same bits however it is run."""

import pytest
import torch

from discli.model import norm
from discli.model.norm import RMSNorm

B, L, D = 3, 37, 48


def inputs(hidden_dtype=torch.float32, with_residual=True, with_drop_path=False, batch=B):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    hidden = draw(batch, L, D).to(hidden_dtype).requires_grad_()
    residual = draw(batch, L, D).requires_grad_() if with_residual else None
    drop_path = torch.tensor([0.0, 1.25, 1.0]) if with_drop_path else None
    return residual, hidden, drop_path


def layer():
    module = RMSNorm(D)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-1, 2, D))
    return module


def values_and_gradients(module, residual, hidden, drop_path, dtype=None):
    """Sum, normed sum, and gradients of hidden, residual and weight for fixed gradients of both answers."""
    added, normed = module(residual, hidden, drop_path, dtype)
    waves = torch.sin(torch.arange(added.numel()).float()).reshape(added.shape)
    ((added * waves).sum() + (normed.float() * waves.cos()).sum()).backward()
    leaves = [hidden, module.weight] if residual is None else [hidden, module.weight, residual]
    return [added.detach(), normed.detach(), *(leaf.grad for leaf in leaves)]


def by_torch(monkeypatch, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(norm, "_fits_kernel", lambda *_: False)
        return values_and_gradients(*arguments)


def case(hidden_dtype=torch.float32, with_residual=True, with_drop_path=False):
    return layer(), *inputs(hidden_dtype, with_residual, with_drop_path)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("with_residual", "with_drop_path"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_values_and_gradients(monkeypatch, hidden_dtype, dtype, with_residual, with_drop_path):
    kind = hidden_dtype, with_residual, with_drop_path
    assert norm._fits_kernel(*inputs(*kind)[:2], layer().weight)
    ours = values_and_gradients(*case(*kind), dtype)
    expected = by_torch(monkeypatch, *case(*kind), dtype)
    narrow = torch.bfloat16 in (dtype, hidden_dtype)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.03 if narrow else 2e-5)
    assert ours[0].dtype == torch.float32


def test_rounding_to_bfloat16_is_to_the_nearest_even():
    module, (residual, hidden, _) = RMSNorm(D), inputs()
    _, wide = module(residual, hidden, None)
    _, narrow = module(residual, hidden, None, torch.bfloat16)
    assert torch.equal(narrow, wide.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_numbers_that_are_not_finite_show(dtype):
    residual, hidden, _ = inputs()
    with torch.no_grad():
        hidden[0, 0, 0], hidden[1, 0, 0] = float("nan"), float("inf")
    _, normed = layer()(residual, hidden, None, dtype)
    assert normed[0, 0].isnan().all()
    assert normed[1, 0, 0].isnan()
    assert normed[2].isfinite().all()


def test_a_sample_is_what_it_is_alone():
    module = layer()
    together = values_and_gradients(module, *inputs())
    residual, hidden, _ = inputs()
    alone = module(residual[1:2], hidden[1:2], None)
    assert torch.equal(alone[0], together[0][1:2])
    assert torch.equal(alone[1], together[1][1:2])


def test_two_threads_give_the_same_bits():
    one = values_and_gradients(*case(with_drop_path=True))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = values_and_gradients(*case(with_drop_path=True))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, one, two))


@pytest.mark.parametrize("width", [40, 7])
def test_other_widths_take_torch(width):
    hidden = torch.randn(2, 5, width, requires_grad=True)
    added, normed = RMSNorm(width)(None, hidden, None)
    torch.testing.assert_close(normed, hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    assert torch.equal(added, hidden)


def test_gradient_of_one_answer_alone(monkeypatch):
    def gradients():
        module, residual, hidden, _ = case()
        _, normed = module(residual, hidden, None)
        normed.square().sum().backward()
        sums = hidden.grad.clone()
        added, _ = module(residual, hidden, None)
        added.square().sum().backward()
        return [sums, hidden.grad, residual.grad]

    ours = gradients()
    monkeypatch.setattr(norm, "_fits_kernel", lambda *_: False)
    for mine, theirs in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_it_can_be_compiled():
    module, residual, hidden, _ = case()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    added, normed = compiled(residual, hidden, None, torch.bfloat16)
    assert torch.equal(normed, module(residual, hidden, None, torch.bfloat16)[1])
    (added.sum() + normed.float().sum()).backward()
    assert hidden.grad is not None


def test_the_operator_keeps_its_promises():
    residual, hidden, _ = inputs()
    arguments = (residual, hidden, torch.ones(B), layer().weight, 1e-5, torch.float32)
    torch.library.opcheck(norm._add_and_norm, arguments)
