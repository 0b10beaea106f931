"""A trained network's weights for another one: other classes, another grid of patches, another head, more blocks.

What is not there in the old network, the new one keeps as it was made.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from discli.model.block import Block
from discli.model.dis import DiS, empty_network
from discli.model.embed import resized_positions
from discli.model.modulation import GatedModulation
from discli.recipe import Recipe
from discli.recipe.kinds import MixerSpec
from discli.runs.description import Part
from discli.runtime.errors import DiscliError

# Settings of a model that the shapes of weights follow from.
_SHAPING = ("embed_dim", "expand", "d_state", "d_conv", "mixer", "scan_order", "grid_conv", "head_conv", "patch_embed")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_MOST_ADDED = 64  # blocks, when looking for how many would do


class Trained(NamedTuple):
    """Weights without LoRA, and what they are of."""

    weights: Mapping[str, Tensor]
    recipe: Recipe
    class_names: Sequence[str]
    where: str  # for errors


def adapt(trained: Trained, recipe: Recipe, class_names: Sequence[str]) -> tuple[dict[str, Tensor], list[Part]]:
    """Weights for the network of ``recipe`` without its LoRA, for ``class_names``, and what became of each.

    New blocks stand before the middle one, which gets a long skip by that. Their layers put out 0, and the network
    computes what it did. Raises DiscliError where there is no way from one network to the other.
    """
    old, new = without_lora(trained.recipe), without_lora(recipe)
    _check_kind(old, new, trained.where)
    before, after = empty_network(old), empty_network(new)
    wanted = dict(after.named_parameters())
    growth = new.model.depth - old.model.depth
    old_names = {name: _old_name(name, old.model.depth // 2, growth) for name in wanted}
    fresh = [name for name, old_name in old_names.items() if old_name not in trained.weights]

    change = _Changes(trained, new, class_names, before, after)
    found = {name: change(name, trained.weights[old_names[name]]) for name in wanted if name not in fresh}
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise _misfit(name, tensor, wanted[name], old, new, trained.where)
    silent = [*_outputs(after, new_blocks(old, new)), *(name for name in fresh if name.startswith("head.modulation."))]
    zeros = {name: torch.zeros(wanted[name].shape) for name in silent}

    changed = {name for part in change.parts for name in part.names}
    taken = [name for name in found if name not in changed]
    parts = [_part("taken", "as they were", taken, found), *change.parts, *_new_parts(fresh, old, new)]
    left = [name for name in trained.weights if name not in old_names.values()]
    return found | zeros, parts + ([_part("left out", "not in the new network", left, trained.weights)] if left else [])


def without_lora(recipe: Recipe) -> Recipe:
    """The recipe of the same network with its LoRA merged."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"lora": None})})


def new_blocks(old: Recipe, new: Recipe) -> range:
    """Those that the deeper network has before its old middle one."""
    first = old.model.depth // 2
    return range(first, first + new.model.depth - old.model.depth)


class _Changes:
    """Tensors by name as the new network needs them; ``parts`` says which were changed, and how."""

    def __init__(self, trained: Trained, new: Recipe, class_names: Sequence[str], before: DiS, after: DiS) -> None:
        self._old, self._new = trained.recipe, new
        self._old_names, self._names = list(trained.class_names), list(class_names)
        self._extra = before.conditioning.extra_tokens, after.conditioning.extra_tokens
        self._shapes = {name: parameter.shape for name, parameter in after.named_parameters()}
        self.parts: list[Part] = []
        ours, theirs = (recipe.diffusion.objective.name for recipe in (new, trained.recipe))
        if ours != theirs:
            head = [name for name in self._shapes if name.startswith("head.linear.")]
            self._changed(f'same weights, which predicted for "{theirs}" and now learn "{ours}"', *head)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        if name == "class_embed.weight":
            return self._classes(name, tensor)
        if name == "pos_embed":
            return self._positions(name, tensor)
        if name.startswith("head.linear."):
            return self._head(name, tensor)
        if name.startswith("patch_embed.") and tensor.ndim == 4:
            return self._patches(name, tensor)
        return tensor

    def _changed(self, why: str, *names: str) -> None:
        same = next((part for part in self.parts if part.why == why), None)
        before = same.names if same else []
        if same:
            self.parts.remove(same)
        all_names = [*before, *names]
        self.parts.append(Part(how="changed", what=", ".join(all_names), why=why, names=all_names))

    def _classes(self, name: str, table: Tensor) -> Tensor:
        """(classes + 1, D): rows of the same names; new ones are the mean of all old, and the null class stays last."""
        old, names = self._old_names, self._names
        numbers = [str(number) for number in range(len(old))]
        if old == numbers and len(names) == len(old):  # the authors' checkpoints know no names
            old = names
        if old == names:
            return table
        row_of, mean = dict(zip(old, table, strict=False)), table[:-1].mean(0)
        kept = sum(name in row_of for name in names)
        new, gone = len(names) - kept, len(old) - kept
        why = f"{kept:,} of {len(old):,} classes kept by name"
        why += f", {new:,} new from the mean of the old" if new else ""
        self._changed(why + (f", {gone:,} dropped" if gone else ""), name)
        return torch.stack([*(row_of.get(name, mean) for name in names), table[-1]])

    def _positions(self, name: str, positions: Tensor) -> Tensor:
        """(1, L, D): the patches' for the new grid; others kept apart."""
        extra, wanted = self._extra
        others, grid = positions[:, :extra], positions[:, extra:]
        if extra != wanted:  # the class token, which stands first, comes or goes
            others = F.pad(others, (0, 0, wanted, 0))[:, -wanted:] if wanted else others[:, :0]
            self._changed(f"{wanted} tokens before the patches instead of {extra}", name)
        old, new = self._old.grid, self._new.grid
        if old != new:
            grid = resized_positions(grid, old, new)
            patches, new_patches = ("{} x {}".format(*size) for size in (old, new))
            self._changed(f"{patches} patches to {new_patches}, bicubic; scans walk over the new grid", name)
        return torch.cat([others, grid], dim=1)

    def _patches(self, name: str, weight: Tensor) -> Tensor:
        """(D, C, k, k): to an enlarged patch the old answer (FlexiViT's PI-resize, arXiv:2212.08013, section 3.4)."""
        k, new_k = weight.shape[-1], self._shapes[name][-1]
        if k == new_k:
            return weight
        self._changed(f"{k} x {k} to {new_k} x {new_k} pixels: the same answer to an enlarged patch", name)
        resized: Tensor = weight.flatten(2) @ torch.linalg.pinv(_resizing(k, new_k))
        return resized.view(*weight.shape[:2], new_k, new_k)

    def _head(self, name: str, rows: Tensor) -> Tensor:
        """(p * p * C, ...), channels fastest: the old answer enlarged; of a variance not learned before, 0."""
        p, q = self._old.model.patch_size, self._new.model.patch_size
        C, new_C = self._old.out_channels, self._new.out_channels
        if len(rows) != p * p * C:
            return rows
        pixels: Tensor = rows.unflatten(0, (p * p, C))
        if p != q:
            self._changed(f"{p} x {p} to {q} x {q} pixels: the old answer, enlarged", name)
            pixels = (_resizing(p, q) @ pixels.flatten(1)).unflatten(1, pixels.shape[1:])
        if new_C != C:
            why = "the variance's channels dropped" if new_C < C else "new channels for the variance, at 0: half-way"
            self._changed(why, name)
            of_variance = pixels.new_zeros(len(pixels), max(new_C - C, 0), *pixels.shape[2:])
            pixels = torch.cat([pixels[:, :new_C], of_variance], dim=1)
        return pixels.flatten(0, 1)


def _resizing(p: int, q: int) -> Tensor:
    """(q * q, p * p): what a bilinear resize of p x p pixels to q x q multiplies them by."""
    one_by_one = torch.eye(p * p).view(p * p, 1, p, p)
    return F.interpolate(one_by_one, (q, q), mode="bilinear", antialias=True).flatten(1).T


def _old_name(name: str, middle: int, growth: int) -> str:
    """Of the parameter in the shallower network; one that it cannot have where the block is new."""
    match = _BLOCK.match(name)
    if match is None or int(match[1]) < middle:
        return name
    before = int(match[1]) - growth
    return f"blocks.{before if before >= middle else 'new'}.{name[match.end() :]}"


def _outputs(network: DiS, blocks: Iterable[int]) -> Iterator[str]:
    """Of the last projection of each layer in ``blocks``. One behind a gate is left out: the gate is 0 at first,
    and were both 0, neither would have a gradient.
    """
    for index in blocks:
        for path, module in network.blocks[index].named_modules(prefix=f"blocks.{index}"):
            if isinstance(module, Block) and not isinstance(module.modulation, GatedModulation):
                projection = module.mixer.get_submodule("out_proj")
                yield from (f"{path}.mixer.out_proj.{name}" for name, _ in projection.named_parameters())


def _check_kind(old: Recipe, new: Recipe, where: str) -> None:
    """Raises DiscliError for what names and shapes of weights do not tell, or not well."""
    if old.in_channels != new.in_channels:
        raise _other("data.codec", f"{new.in_channels} channels", f"{old.in_channels} channels", where)
    for key in ("skip", "conditioning"):
        ours, theirs = getattr(new.model, key).name, getattr(old.model, key).name
        if ours != theirs:
            raise _other(f"model.{key}", ours, theirs, where)
    if new.model.depth < old.model.depth:
        raise _other("model.depth", str(new.model.depth), f"{old.model.depth} blocks, of which none can go", where)
    if not _blocks_fit(old, new, 0):
        for told_by in (lambda mixer: mixer.name, _function):
            ours, theirs = (" + ".join(map(told_by, recipe.model.mixers)) for recipe in (new, old))
            if ours != theirs:
                raise _other("model.mixer", ours, theirs, where)
        fitting = (more for more in range(-_MOST_ADDED, _MOST_ADDED + 1, 2) if new.model.depth + more > old.model.depth)
        depths = [new.model.depth + more for more in sorted(fitting, key=abs) if _blocks_fit(old, new, more)]
        raise DiscliError(
            f"model.depth {new.model.depth}: {where} has {old.model.depth} blocks, and those behind the new ones"
            " would get another mixer or path.",
            f"Try --set model.depth={depths[0]}." if depths else "Use as many blocks.",
        )


def _blocks_fit(old: Recipe, new: Recipe, more: int) -> bool:
    """Whether each old block has its mixer and its walks in ``new`` with so many ``more`` blocks."""
    depth = new.model.depth + more
    growth, middle = depth - old.model.depth, old.model.depth // 2
    same_order = old.model.scan_order == new.model.scan_order

    def kind(recipe: Recipe, block: int) -> tuple[str, list[list[int]]]:
        mixers = recipe.model.mixers
        before: list[MixerSpec] = [mixers[i % len(mixers)] for i in range(block)]
        scans = sum(mixer.ordered for mixer in before)
        mixer = mixers[block % len(mixers)]
        walks = recipe.model.scan_order.walks(new.grid, scans) if same_order and mixer.ordered else []
        return _function(mixer), walks

    return all(kind(old, i) == kind(new, i if i < middle else i + growth) for i in range(old.model.depth))


def _function(mixer: MixerSpec) -> str:
    """Settings that say what it computes of its weights; the same weights may fit several, as those of heads do."""
    return mixer.model_dump_json(exclude={"chunk"})


def _other(key: str, ours: str, theirs: str, where: str) -> DiscliError:
    return DiscliError(
        f"{key}: the recipe has {ours}, and {where} has {theirs}.", f"Take that {key}, or begin from another model."
    )


def _misfit(name: str, tensor: Tensor, wanted: Tensor, old: Recipe, new: Recipe, where: str) -> DiscliError:
    """By the first setting that differs, as far as one is to blame."""
    for key in _SHAPING:
        ours, theirs = (getattr(recipe.model, key) for recipe in (new, old))
        if ours != theirs:
            return _other(f"model.{key}", str(ours), str(theirs), where)
    shapes = f"{' x '.join(map(str, wanted.shape))} numbers, and {where} {' x '.join(map(str, tensor.shape))}"
    return DiscliError(f"{name} has {shapes}.", "Begin from another model.")


def _part(how: str, why: str, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Part:
    """Of many tensors: by what they belong to."""
    count = sum(tensors[name].numel() for name in names)
    tops = dict.fromkeys(name.partition(".")[0] for name in names)
    why = f"{why}: {len(names):,} tensors, {count:,} parameters"
    return Part.model_validate({"how": how, "what": ", ".join(tops), "why": why, "names": list(names)})


def _new_parts(fresh: Sequence[str], old: Recipe, new: Recipe) -> Iterator[Part]:
    blocks = new_blocks(old, new)
    of_blocks = [name for name in fresh if (match := _BLOCK.match(name)) and int(match[1]) in blocks]
    if of_blocks:
        what = f"blocks {blocks[0]} to {blocks[-1]}"
        yield Part(
            how="new", what=what, why="they add 0 at first, so the network computes what it did", names=of_blocks
        )
    skip = [name for name in fresh if blocks and name.startswith(f"blocks.{blocks.stop}.skip.")]
    if skip:
        why = "the old middle block has a long skip now, between what are zeros at first"
        yield Part(how="new", what=f"blocks.{blocks.stop}.skip", why=why, names=skip)
    for name in fresh:
        if name not in of_blocks and name not in skip:
            yield Part(how="new", what=name, why="not in the old network", names=[name])
