"""How tokens hear of each other.

To add one: a class in a file of its own that maps (B, L, D) to (B, L, D) through a last linear layer
``out_proj``, its name in ``MIXERS``, and a Spec of the same name in `discli.recipe.model`.
``mlp_ratio`` says how many times as wide as the tokens an MLP is that follows as a second layer of
the block (`discli.model.block`); 0 for none. A static method ``flops`` of the `ModelSpec` and the number
of tokens counts one block's mixer by part, as `discli.cost.flops` does for those that are here.
"""

from collections.abc import Sequence

import torch

from discli.model.attention import Attention
from discli.model.mamba import BidirectionalMamba
from discli.model.mamba2 import BidirectionalMamba2
from discli.model.order import Path
from discli.recipe.model import ModelSpec
from discli.scan import Choice, choose_backend

Mixer = BidirectionalMamba | BidirectionalMamba2 | Attention

MIXERS: dict[str, type[Mixer]] = {"mamba": BidirectionalMamba, "mamba2": BidirectionalMamba2, "attention": Attention}


def build_mixer(model: ModelSpec, paths: Sequence[Path]) -> Mixer:
    return MIXERS[model.mixer.name](model, paths, **model.mixer.model_dump(exclude={"name"}))


def choose_scan(model: ModelSpec, device: torch.device) -> Choice:
    """What computes the model's scans on ``device``. Raises DiscliError as `discli.scan.choose_backend` does."""
    if model.mixer.name == "mamba":
        return choose_backend(model.scan, device)
    return Choice("torch", f"{model.mixer.name} is made of PyTorch's matrix products")
