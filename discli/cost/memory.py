"""How large a network is, found without its weights: parameters by part, and what training keeps of an image.

Fake tensors have shape, dtype and device and no memory. Autograd runs on them as it would on others,
so that a laptop can count what the largest network saves on a GPU that is elsewhere.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from discli.model import DiS, empty_network
from discli.model.lora import is_thin, plain_name
from discli.recipe import Recipe
from discli.scan import assume_backend

# Where a parameter's name leads, in the order of the forward pass; other modules go by their own names.
_PARTS = {
    "patch_embed": "patch embedding",
    "pos_embed": "position embedding",
    "time_embed": "time embedding",
    "class_embed": "class embedding",
    "blocks.skip": "blocks: long skips",
    "blocks.norm": "blocks: norms",
    "blocks.modulation": "blocks: modulation",
    "blocks.grid_conv": "blocks: grid convolutions",
    "blocks.mixer": "blocks: mixers",
    "blocks.mlp": "blocks: MLPs",
    "head": "head",
    "head_conv": "head convolution",
}
# Its kernels stand outside of torch.library and need a GPU even for shapes.
UNCOUNTED = ("mamba-ssm",)


def parameters_by_part(network: nn.Module) -> dict[str, int]:
    """How many parameters each part has, all blocks together; their sum is the network's."""
    found: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        found[_part_of(name.split("."))] += parameter.numel()
    known = [part for part in _PARTS if part in found]
    return {_PARTS.get(part, part): found[part] for part in [*known, *(found.keys() - _PARTS.keys())]}


def trained_parameters(recipe: Recipe) -> int:
    """How many training changes: with LoRA its matrices alone, as where classes and objective stay as they were."""
    return sum(
        parameter.numel()
        for name, parameter in empty_network(recipe).named_parameters()
        if (recipe.model.lora is None or is_thin(name))
        and not any(fnmatchcase(plain_name(name), pattern) for pattern in recipe.train.freeze)
    )


def _part_of(path: list[str]) -> str:
    if path[0] != "blocks":
        return path[0]
    if "channel_mixing" in path and "mixer" in path:
        return "blocks.mlp"
    return next((f"blocks.{name}" for name in path if f"blocks.{name}" in _PARTS), f"blocks.{path[2]}")


@dataclass(frozen=True)
class Kept:
    """Bytes that wait for the backward pass: some for each image, some whatever their number.

    The latter are weights in the precision of the products, and as the scan's kernels want them.
    """

    per_image: int
    fixed: int

    def of(self, images: int) -> int:
        return self.per_image * images + self.fixed


def activation_memory(
    recipe: Recipe, device_type: str, precision: str, backend: str, *, checkpointing: bool
) -> Kept | None:
    """What autograd saves in one forward pass of the recipe's network, beside its parameters.

    Of tensors that share memory, the memory is counted once. With activation checkpointing that is
    what goes into each block, and on top the most that one block saves when it is computed again.
    Not in it: the loss, which is a few images' worth, what lives only within an operation, and
    gradients. ``backend`` is the scan's, as `discli.model.mixers.choose_scan` names it; None for one
    that cannot be counted.
    """
    if backend in UNCOUNTED:
        return None
    network = empty_network(recipe)
    scans = assume_backend(backend) if recipe.model.uses_scan else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), scans:
        network.to_empty(device=torch.device(device_type))

        def kept(images: int) -> int:
            with _autocast(device_type, precision):
                plain, block = _forward(network, recipe, images, device_type)
                if not checkpointing:
                    return plain
                network.checkpoint_blocks = True
                inputs, _ = _forward(network, recipe, images, device_type)
                network.checkpoint_blocks = False
                return inputs + block

        # Not one image: where an axis has length one, more layouts count as contiguous and less is copied.
        two, three = kept(2), kept(3)
    return Kept(per_image=three - two, fixed=3 * two - 2 * three)


def _forward(network: DiS, recipe: Recipe, images: int, device_type: str) -> tuple[int, int]:
    """(bytes saved in all, the most that were saved within one block) in a forward pass as training does it."""
    saved = Saved(network)
    branches = len(network.drop_path_rates())
    within: list[int] = []
    hooks = [
        hook
        for block in network.blocks
        for hook in (
            block.register_forward_pre_hook(lambda *_: within.append(-saved.bytes)),
            block.register_forward_hook(lambda *_: within.append(within.pop() + saved.bytes)),
        )
    ]
    with torch.device(device_type), saved.watching():
        x = torch.empty(images, *recipe.input_shape)
        y = torch.zeros(images, dtype=torch.int64) if recipe.model.num_classes else None
        keep = torch.ones(branches, images) if recipe.model.drop_path_rate > 0 else None
        network(x, torch.zeros(images), y, keep)
    for hook in hooks:
        hook.remove()
    return saved.bytes, max(within)


class Saved:
    """The memory that autograd saves while `watching`, except for the network's own parameters."""

    def __init__(self, network: nn.Module) -> None:
        self.bytes = 0
        # Kept alive, because another storage could come to lie at the address of a freed one.
        self._storages = {p.untyped_storage()._cdata: p.untyped_storage() for p in network.parameters()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
            yield

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor


@contextmanager
def _autocast(device_type: str, precision: str) -> Iterator[None]:
    """`torch.autocast`, which turns itself off for a GPU that is not there; fake tensors need none."""
    before: tuple[bool, Any] = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    torch.set_autocast_enabled(device_type, precision == "bf16")
    torch.set_autocast_dtype(device_type, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device_type, before[0])
        torch.set_autocast_dtype(device_type, before[1])
