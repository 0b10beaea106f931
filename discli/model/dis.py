"""DiS: a diffusion model whose backbone is a stack of bidirectional state-space blocks (arXiv:2402.05608).

Read this first. An image becomes patches; time and class join them (``conditionings/``); in-blocks,
one middle block and out-blocks follow (`block`, ``mixers/``), joined by long skips (``skips/``); a head
turns tokens back into an image.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from discli.model.block import Block, PairedBlock
from discli.model.conditionings import Conditioning
from discli.model.embed import Positions, TimeEmbed, unpatchify
from discli.model.grid_convs import GridConv
from discli.model.head_convs import HeadConv
from discli.model.init import initialise
from discli.model.lora import add_lora
from discli.model.mixers import Mixer
from discli.model.modulation import Modulation
from discli.model.norm import RMSNorm
from discli.model.order import Placed, token_orders
from discli.model.patch_embeds import PatchEmbed
from discli.model.routing import Route, RoutedSpan, tell_places
from discli.model.skips import Skip
from discli.recipe import Recipe
from discli.recipe.choices import build
from discli.recipe.model import ModelSpec
from discli.recipe.size import Size


class Head(nn.Module):
    """Both streams (B, L, D), added up, to patches (B, L, p*p*C_out)."""

    def __init__(self, embed_dim: int, patch_width: int, modulated: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(embed_dim)
        self.modulation = Modulation(embed_dim) if modulated else None
        self.linear = nn.Linear(embed_dim, patch_width)

    def forward(
        self, residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        """residual, hidden (B, L, D); drop_path (B,) factors; condition (B, D) where it is modulated."""
        _, x = self.norm(residual, hidden, drop_path)
        x = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        patches: Tensor = self.linear(x) if self.modulation is None else self.modulation(x, condition, self.linear)
        return patches


class DiS(nn.Module):
    """``model(x, t, y)``: noisy x (B, C, H, W), timestep t (B,), class y (B,) to (B, C_out, H, W).

    ``y == num_classes`` is the null class; unconditional models take ``y=None``. C_out is 2C when
    the variance is learned: first the prediction, then the variance's interpolation. Of another size than
    ``input_size``, of whole patches, x has the positions of that resized, and walks of its own.
    """

    def __init__(self, spec: ModelSpec, input_size: Size, in_channels: int, out_channels: int) -> None:
        super().__init__()
        D, p = spec.embed_dim, spec.patch_size
        self.num_classes = spec.num_classes
        self.drop_path_rate = spec.drop_path_rate
        self.checkpoint_blocks = False
        self._was_routed = False

        self.patch_size = p
        self.patch_embed: PatchEmbed = build(spec.patch_embed, in_channels, D, p)
        self.time_embed = TimeEmbed(D)
        self.class_embed = nn.Embedding(spec.num_classes + 1, D) if spec.num_classes else None
        self.conditioning: Conditioning = build(spec.conditioning, D, has_classes=spec.num_classes > 0)
        self.grid = input_size.cut_into(p)  # that of pos_embed
        self.positions = Positions(self.grid)
        self.pos_embed = nn.Parameter(torch.empty(1, self.conditioning.extra_tokens + self.grid.area, D))

        def block(index: int) -> Block | PairedBlock:
            *before_it, its_own = (spec.mixers[i % len(spec.mixers)] for i in range(index + 1))
            # Of blocks without an order none counts: with every second one attention, all scans would go along rows.
            scans = sum(mixer.ordered for mixer in before_it)
            orders = token_orders(spec.scan_order, scans, self.conditioning.extra_tokens)
            mixer: Mixer = build(its_own, spec, orders)
            skip: Skip | None = build(spec.skip, D) if index > spec.depth // 2 else None
            before: GridConv | None = None
            if spec.grid_conv.where == "before":
                before = build(spec.grid_conv, D, self.conditioning.extra_tokens)
            mixing = Block(D, mixer, skip, self.conditioning.block_modulation(), before)
            if mixer.channel_mixing is None:
                return mixing
            return PairedBlock(mixing, Block(D, mixer.channel_mixing(D), None, self.conditioning.block_modulation()))

        blocks = [block(index) for index in range(spec.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.layers = [block.layers for block in blocks]  # of each block: one, or two with an MLP
        self._placed = [module for module in self.modules() if isinstance(module, Placed)]
        self.head = Head(D, p * p * out_channels, modulated=self.conditioning.modulates_head)
        self.head_conv: HeadConv | None = None
        if spec.head_conv.name != "none":
            self.head_conv = build(spec.head_conv, out_channels)
        self.lay_out(self.grid, "cpu")

        if self.pos_embed.device.type != "meta":
            initialise(self)
        if spec.lora is not None:
            add_lora(self, spec.lora.rank)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "DiS":
        """With initial values, except on the meta device."""
        return cls(recipe.model, recipe.input_size, recipe.in_channels, recipe.out_channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        drop_path: Tensor | None = None,
        route: Route | None = None,
    ) -> Tensor:
        """x (B, C, H, W), t (B,) and y (B,) int64 to (B, C_out, H, W).

        ``drop_path`` (layers + 1, B) scales what each layer adds to the residual stream; see `drop_path_rates`.
        ``route``: patches that skip blocks.
        """
        if self._was_routed:
            tell_places(self, None)
        self._was_routed = route is not None
        grid = Size(*x.shape[2:]).cut_into(self.patch_size)
        self.lay_out(grid, x.device)
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        time_token = self.time_embed(t)
        class_token = None if self.class_embed is None else self.class_embed(y)
        conditions = self.conditioning(time_token, class_token)
        hidden = torch.cat([conditions.tokens.to(patches.dtype), patches], dim=1) + self.positions(self.pos_embed)

        residual: Tensor | None = None
        skips: list[Tensor] = []
        middle = len(self.blocks) // 2
        layer = 0
        span = RoutedSpan(self.blocks, route, self.conditioning.extra_tokens)
        for index, block in enumerate(self.blocks):
            hidden, residual = span.enter(index, hidden, residual)
            skipped = skips.pop() if index > middle else None
            of_block = None if drop_path is None else drop_path[layer : layer + self.layers[index]]
            layer += self.layers[index]
            arguments = (hidden, residual, skipped, conditions.blocks, of_block)
            if self.checkpoint_blocks and torch.is_grad_enabled():
                # Blocks draw nothing: no random state is to be kept, which a CUDA graph could not.
                hidden, residual = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden, residual = block(*arguments)
            hidden, residual = span.leave(index, hidden, residual)
            if index < middle:
                skips.append(hidden)

        out = self.head(residual, hidden, None if drop_path is None else drop_path[-1], conditions.head)
        out = out[:, self.conditioning.extra_tokens :]
        image = unpatchify(out, grid, self.patch_size)
        return image if self.head_conv is None else self.head_conv(image)

    def lay_out(self, grid: Size, device: torch.device | str) -> None:
        """For images of another ``grid`` of patches than the last; a forward pass does so of its own accord."""
        for module in self._placed:
            if getattr(module, "grid", None) == grid:
                return  # so are all
            module.lay_out(grid, device)

    def drop_path_rates(self) -> Tensor:
        """(layers + 1,) chance that a sample loses what is added: the patches never, then block by block
        linearly up to the full rate, which the last two share. All layers of a block have its rate.
        """
        rising = torch.linspace(0.0, self.drop_path_rate, len(self.blocks) - 1)
        of_blocks = torch.cat([rising, torch.tensor([self.drop_path_rate])])
        blocks = [index for index, layers in enumerate(self.layers) for _ in range(layers)]
        return torch.cat([torch.zeros(1), of_blocks[blocks]])


def empty_network(recipe: Recipe) -> DiS:
    """The recipe's network on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return DiS.from_recipe(recipe)


def load_network(recipe: Recipe, weights: Mapping[str, Tensor]) -> DiS:
    """The recipe's network made of ``weights``, a state dict, without a copy and on their device.

    Raises RuntimeError where names or shapes do not fit the recipe.
    """
    network = empty_network(recipe)
    network.load_state_dict(weights, assign=True)
    # What the network keeps beside its weights was built on the CPU.
    return network.to(network.pos_embed.device)
