"""The model against the authors' numbers: outputs, gradients, guidance, and the published sizes."""

import itertools

import pytest
import torch

from discli.model import DiS
from discli.model.authors import our_name
from discli.recipe import parse_recipe
from discli.recipe.model import CONDITIONINGS, MIXERS, SCAN_ORDERS, SKIPS
from tests.golden import Golden, load_golden
from tests.model.small import small

CASES = ["a_uncond", "b_class10"]


def _run(golden: Golden) -> torch.Tensor:
    tensors = golden.tensors
    dtype = golden.model.pos_embed.dtype
    return golden.model(tensors["input.x"].to(dtype), tensors["input.t"], tensors.get("input.labels"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_all_gradients_equal_the_authors(shared, case, dtype):
    golden = load_golden(shared / "golden", case, dtype, scan="reference")
    _check_outputs_and_gradients(golden, dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_scan_gives_the_same(shared, case, dtype):
    _check_outputs_and_gradients(load_golden(shared / "golden", case, dtype), dtype)


def _check_outputs_and_gradients(golden: Golden, dtype: torch.dtype) -> None:
    out = _run(golden)
    loss = (out * golden.tensors["input.loss_w"].to(dtype)).sum()
    loss.backward()

    if dtype == torch.float64:
        # The authors' sinusoid is float32; the file holds both and ours need only match one.
        distances = [_relative(out, golden.tensors[key]) for key in ("out", "out_sinusoid32")]
        assert min(distances) < 1e-9
        gradient_tolerance = 1e-8
    else:
        tolerance = 20 * golden.noise_floor["f32_vs_f64_out_maxabs"]
        assert (out - golden.tensors["out"]).abs().max() < tolerance
        gradient_tolerance = 20 * golden.noise_floor["f32_vs_f64_grad_maxrel_per_tensor"]

    ours = dict(golden.model.named_parameters())
    expected = golden.grads()
    assert len(expected) == len(ours)
    for name, gradient in expected.items():
        actual = ours[our_name(name, len(golden.model.blocks))].grad
        assert _relative(actual, gradient.reshape(actual.shape)) < gradient_tolerance, name


@pytest.mark.parametrize("case", CASES)
def test_every_blocks_streams_equal_the_authors(shared, case):
    golden = load_golden(shared / "golden", case, torch.float64)
    seen = {}
    for index, block in enumerate(golden.model.blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: seen.update({index: out}))
    _run(golden)
    for index, (hidden, residual) in seen.items():
        assert _relative(hidden, golden.tensors[f"act.block{index}.mixer_out"]) < 1e-9
        assert _relative(residual, golden.tensors[f"act.block{index}.residual"]) < 1e-9


def test_drop_path_factors_scale_the_branches_as_the_authors_do(shared):
    """A factor of 0 on every branch after the first leaves the head with the patches alone."""
    golden = load_golden(shared / "golden", "a_uncond", torch.float64)
    keep = torch.zeros(len(golden.model.blocks) + 1, 2)
    keep[0] = 1
    x, t = golden.tensors["input.x"].double(), golden.tensors["input.t"]
    out = golden.model(x, t, drop_path=keep)
    first_residual = golden.tensors["act.block0.residual"]
    assert torch.equal(out, _head_only(golden.model, first_residual))


def _head_only(model: DiS, residual: torch.Tensor) -> torch.Tensor:
    from discli.model.embed import unpatchify

    return unpatchify(model.head(None, residual, None, None)[:, 1:], model.grid, 2)


def test_drop_path_rates_rise_from_zero():
    model = small()
    assert model.drop_path_rates().tolist() == pytest.approx([0, 0, 0.2 / 3, 0.4 / 3, 0.2, 0.2])


@pytest.mark.parametrize(
    ("preset", "pixels", "latents"),
    [
        ("dis-s", 28_457_168, 29_132_752),
        ("dis-b", 119_139_168, 121_163_552),
        ("dis-m", 229_390_176, 231_414_560),
        ("dis-l", 404_026_464, 407_249_952),
        ("dis-h", 900_558_432, 906_966_560),
    ],
)
def test_published_parameter_counts(preset, pixels, latents):
    rgb = {"model": {"preset": preset, "patch_size": 4}, "data": {"resolution": 32}}
    vae = {
        "model": {"preset": preset, "patch_size": 2, "num_classes": 1000},
        "data": {"resolution": 256, "codec": "vae"},
    }
    for tree, expected in ((rgb, pixels), (vae, latents)):
        recipe = parse_recipe({"name": preset, "train": {"steps": 1}, **tree}, preset)
        with torch.device("meta"):
            model = DiS.from_recipe(recipe)
        assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("skip", SKIPS)
def test_every_choice_runs_and_trains_every_parameter(skip, conditioning):
    model = small(skip=skip, conditioning=conditioning)
    with torch.no_grad():
        for block in model.blocks:
            if conditioning == "adaln-zero":  # whose gates let no gradient through at first
                block.modulation.linear.weight.normal_(std=0.1)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 4])
    out = model(x, t, y)
    assert out.shape == (2, 6, 8, 8)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


VARIANTS = [
    {"mixer": mixer, "scan_order": order}
    for mixer, order in itertools.product(MIXERS, SCAN_ORDERS)
    if (MIXERS[mixer].ordered or order == "raster") and SCAN_ORDERS[order].walks_share in MIXERS[mixer].walks_may_share
]
ACROSS = [
    {"mixer": "mamba", "scan_order": "four", "conditioning": "adaln-zero"},
    {"mixer": "mamba2", "scan_order": "zigzag", "conditioning": "adaln"},
    {"mixer": "mamba3", "scan_order": "zigzag", "conditioning": "adaln"},
    {"mixer": "hydra", "scan_order": "four", "skip": "gated"},
    {"mixer": "attention", "skip": "gated", "conditioning": "adaln-zero"},
    {"grid_conv": "depthwise", "patch_embed": "overlapping", "head_conv": "residual", "conditioning": "adaln-zero"},
    {"grid_conv": {"name": "depthwise", "place": "instead"}, "scan_order": "four-split"},
    {"mixer": ["mamba", "mamba", "attention"], "scan_order": "zigzag", "conditioning": "adaln"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant.values()))
def test_every_mixer_in_every_order_trains_every_parameter(variant):
    torch.manual_seed(0)
    model = small(**{"depth": 3, **variant})
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 4])
    model(x, t, y).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    "variant",
    [*VARIANTS, *({"conditioning": name} for name in CONDITIONINGS), *({"skip": name} for name in SKIPS), *ACROSS[-3:]],
)
def test_two_steps_bring_every_variant_nearer_to_its_target(variant):
    torch.manual_seed(0)
    model = small(**{"depth": 3, **variant})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, t, y = torch.randn(4, 3, 8, 8), torch.tensor([5, 300, 600, 900]), torch.tensor([1, 4, 0, 2])
    target = torch.randn(4, 6, 8, 8)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model(x, t, y) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("variant", [{}, *ACROSS])
def test_activation_checkpointing_changes_no_gradient(variant):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = small(**variant)
        model.checkpoint_blocks = checkpointing
        torch.manual_seed(1)
        model(torch.randn(2, 3, 8, 8), torch.tensor([3, 4]), torch.tensor([0, 1])).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("variant", [{}, *ACROSS])
def test_autocast_keeps_the_residual_stream_wide(variant):
    model = small(**variant)
    streams = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: streams.append((out[0].dtype, out[1].dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 8, 8), torch.tensor([3, 4]), torch.tensor([0, 1]))
    assert set(streams) == {(torch.bfloat16, torch.float32)}


def _relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.detach() - expected).abs().max() / expected.abs().max())
