"""What a network keeps, counted on tensors without content, against real tensors and torch's own profiler."""

import pytest
import torch

from discli.cost.memory import Saved, activation_memory, parameters_by_part
from discli.model import DiS, empty_network
from discli.recipe import parse_recipe

IMAGES = 4


def _recipe(**model):
    tree = {"name": "t", "model": {"embed_dim": 64, "depth": 5, "num_classes": 3, **model}}
    return parse_recipe(tree | {"data": {"resolution": 16}, "train": {"steps": 1}}, "t")


class Real:
    """The network on the CPU with tensors that exist, and a forward pass as training does it."""

    def __init__(self, recipe, precision, checkpointing=False):
        self.network = DiS.from_recipe(recipe)
        self.network.checkpoint_blocks = checkpointing
        self.half = precision == "bf16"
        keep = torch.ones(len(self.network.drop_path_rates()), IMAGES)
        self.inputs = [torch.randn(IMAGES, *recipe.input_shape), torch.zeros(IMAGES), torch.zeros(IMAGES).long(), keep]

    def forward(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return self.network(*self.inputs)

    def allocated(self):
        """Bytes that torch's CPU allocator has given out and not got back after a forward pass."""
        self.forward()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            out = self.forward()
        return sum(event.self_cpu_memory_usage for event in profile.key_averages()) - out.untyped_storage().nbytes()

    def size_of_inputs(self):
        return sum(tensor.nbytes for tensor in self.inputs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("skip", ["concat", "add"])
def test_the_count_is_what_torch_then_allocates(precision, skip):
    recipe = _recipe(skip=skip)
    real = Real(recipe, precision)
    kept = activation_memory(recipe, "cpu", precision, "cpu", checkpointing=False)
    # What is kept of the inputs was there before; under autocast it is a copy instead.
    new = kept.of(IMAGES) - real.allocated()
    assert -64 <= new <= real.size_of_inputs() < kept.of(IMAGES) / 100


@pytest.mark.parametrize(
    "model",
    [
        {"mixer": "mamba"},
        {"mixer": "mamba2"},
        {"mixer": "mamba3"},
        {"mixer": "hydra"},
        {"mixer": ["dit", "attention"]},
        {"grid_conv": "depthwise", "patch_embed": "overlapping", "head_conv": "residual"},
        {"grid_conv": {"name": "depthwise", "place": "instead"}, "scan_order": "four-split"},
    ],
)
def test_the_count_is_what_autograd_saves_of_real_tensors(model):
    recipe = _recipe(**model, depth=3)
    real = Real(recipe, "fp32")
    saved = Saved(real.network)
    with saved.watching():
        out = real.forward()
    assert out.requires_grad
    assert activation_memory(recipe, "cpu", "fp32", "cpu", checkpointing=False).of(IMAGES) == saved.bytes


def test_checkpointing_keeps_what_goes_into_blocks_and_one_block_computed_again():
    recipe = _recipe()
    real = Real(recipe, "fp32", checkpointing=True)
    kept = activation_memory(recipe, "cpu", "fp32", "cpu", checkpointing=True).of(IMAGES)
    plain = activation_memory(recipe, "cpu", "fp32", "cpu", checkpointing=False).of(IMAGES)
    one_block = kept - real.allocated() - real.size_of_inputs()
    assert plain / 10 < one_block < plain / 4  # of five blocks and what is around them
    assert kept < plain


def test_a_gpu_that_is_not_there_is_counted_for_with_its_own_scan():
    recipe = _recipe()
    half, full = (activation_memory(recipe, "cuda", name, "triton", checkpointing=False) for name in ("bf16", "fp32"))
    assert half.per_image < full.per_image < 2 * half.per_image
    weights = sum(p.numel() for name, p in empty_network(recipe).named_parameters() if name.endswith("proj.weight"))
    assert half.fixed > 2 * weights  # bf16 copies of at least the large matrices
    assert not torch.is_autocast_enabled("cuda")


def test_what_needs_a_gpu_even_for_shapes_is_not_guessed():
    assert activation_memory(_recipe(), "cuda", "bf16", "mamba-ssm", checkpointing=False) is None


def test_parts_add_up_and_every_parameter_is_in_one():
    network = empty_network(_recipe(conditioning="adaln"))
    parts = parameters_by_part(network)
    assert sum(parts.values()) == sum(p.numel() for p in network.parameters())
    assert parts["blocks: long skips"] == 2 * (2 * 64 * 64 + 64)
    assert parts["blocks: modulation"] == 5 * (64 * 128 + 128)
    names = list(parts)
    assert (names[0], names[-1]) == ("patch embedding", "head")


def test_an_mlp_beside_a_mixer_is_a_part_of_its_own():
    parts = parameters_by_part(empty_network(_recipe(mixer="dit")))
    assert parts["blocks: MLPs"] == 5 * (64 * 256 + 256 + 256 * 64 + 64)
    assert parts["blocks: norms"] == 2 * 5 * 64
