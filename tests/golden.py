"""The authors' model in numbers: loading the worked cases kept beside the project."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from discli.model import DiS
from discli.model.authors import convert, read_shapes
from discli.recipe import parse_recipe


class Golden(NamedTuple):
    model: DiS
    tensors: dict[str, torch.Tensor]
    noise_floor: dict[str, float]

    def grads(self, prefix: str = "grad.") -> dict[str, torch.Tensor]:
        """Expected gradients under the authors' names."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def load_golden(folder: Path, case: str, dtype: torch.dtype, **model_settings: Any) -> Golden:
    """The case's model with its weights, built through the converter that reads the authors' checkpoints."""
    suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    tensors, metadata = _read(folder / f"{case}.{suffix}.safetensors")
    weights, _ = _read(folder / metadata["state_file"])
    state = {k.removeprefix("state."): v.to(dtype) for k, v in weights.items() if k.startswith("state.")}
    shape = read_shapes(state)
    recipe = parse_recipe(
        {
            "name": case,
            "model": {
                "embed_dim": shape.embed_dim,
                "depth": shape.depth,
                "patch_size": shape.patch_size,
                "num_classes": shape.num_classes,
                **model_settings,
            },
            "data": {"resolution": shape.input_size.plain()},
            "diffusion": {"objective": {"learn_sigma": shape.out_channels == 2 * shape.in_channels}},
            "train": {"steps": 1},
        },
        case,
    )
    model = DiS(recipe.model, shape.input_size, shape.in_channels, shape.out_channels).to(dtype)
    model.load_state_dict(convert(state))
    return Golden(model, tensors, json.loads(metadata["noise_floor"]))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
