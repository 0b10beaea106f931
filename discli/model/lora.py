"""LoRA: thin matrices beside those of a trained network (arXiv:2106.09685)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

# Matrices that blocks multiply by and that are no nn.Linear's: those of a scan's direction.
_OF_SCANS = ("x_proj", "dt_weight")
# What PyTorch calls a parameter W that became W + B A: ``in_proj.weight`` and so on.
_BASE = re.compile(r"parametrizations\.(\w+)\.original$")
_THIN = re.compile(r"parametrizations\.\w+\.0\.[AB]$")


class LowRank(nn.Module):
    """W + B A in float32 or wider, W (M, N), B (M, rank), A (rank, N): W at first, for B is 0 (section 4.1)."""

    def __init__(self, weight_MN: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight_MN.shape
        self.A = nn.Parameter(torch.empty(rank, columns).uniform_(-(columns**-0.5), columns**-0.5))
        self.B = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight_MN: Tensor) -> Tensor:
        if weight_MN.is_meta:  # which autocast does not know
            return weight_MN
        # Not in autocast's precision, so that the merged matrix is the same to the bit.
        with torch.autocast(weight_MN.device.type, enabled=False):
            return weight_MN + self.B @ self.A


def hidden_matrices(model: nn.Module) -> list[str]:
    """Names of the matrices inside ``blocks`` that tokens are multiplied by: LoRA's, and Muon's.

    That is every nn.Linear's weight in there, long skips, MLPs and modulations among them, and a scan's x_proj
    and dt_weight. Not: convolutions, A_log, D and D_weight, biases and norms, whatever their shape; and nothing
    outside of blocks, where tokens begin and end (embeddings, time and class, head), nor a further loss's projector.
    """
    weights = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2
        and name.startswith("blocks.")
        and (name in weights or name.rpartition(".")[2] in _OF_SCANS)
    ]


def add_lora(model: nn.Module, rank: int) -> None:
    """A `LowRank` on each of `hidden_matrices`. What computes with them does not notice."""
    for name in hidden_matrices(model):
        path, _, leaf = name.rpartition(".")
        register_parametrization(model.get_submodule(path), leaf, LowRank(model.get_parameter(name), rank), unsafe=True)


def is_thin(name: str) -> bool:
    """Whether a parameter's name is that of an A or B."""
    return _THIN.search(name) is not None


def plain_name(name: str) -> str:
    """The name that a parameter has without LoRA; A and B, which are not there without it, keep theirs."""
    return _BASE.sub(r"\1", name)


def merge_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network without LoRA that computes the same: W + B A, by their plain names."""
    merged = {}
    for name, tensor in weights.items():
        if _BASE.search(name):
            low = name.removesuffix("original")
            merged[plain_name(name)] = tensor + weights[f"{low}0.B"] @ weights[f"{low}0.A"]
        elif not is_thin(name):
            merged[name] = tensor
    return merged
