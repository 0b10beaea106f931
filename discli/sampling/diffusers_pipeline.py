"""An exported run as diffusers sees it: a network, an autoencoder where there is one, and a pipeline.

``discli export RUN --to diffusers`` writes a folder whose two small modules hand these classes on, so
that ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` finds them. Images are
those of ``discli sample`` with the same settings, bit for bit on a CPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor

from discli.model import DiS
from discli.recipe import DataContract, parse_recipe
from discli.sampling.load import LoadedModel
from discli.sampling.sample import sample


class DiSModel(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A `DiS` with its recipe and data contract as configuration."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, recipe: dict[str, Any], contract: dict[str, Any], step: int = 0) -> None:
        super().__init__()
        self.dis = DiS.from_recipe(parse_recipe(dict(recipe), "config.json"))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, C, S, S), t (B,), y (B,) to the network's prediction, (B, C or 2C, S, S)."""
        out: Tensor = self.dis(x, t, y)
        return out


class DiSPipeline(DiffusionPipeline):  # type: ignore[misc]
    """``pipe(16, classes="balanced", cfg_scale=2.0).images``: as `discli.sample`, images as PIL images."""

    _optional_components = ("vae",)

    def __init__(self, network: DiSModel, vae: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.register_modules(network=network, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        n: int = 16,
        classes: str | Sequence[str | int] = "random",
        seed: int = 0,
        **settings: Any,
    ) -> ImagePipelineOutput:
        """``settings`` are fields of a recipe's ``[sample]``: cfg_scale, steps, sampler, ..."""
        config = self.network.config
        recipe = parse_recipe(dict(config.recipe), "config.json")
        contract = DataContract.model_validate(dict(config.contract))
        trained = LoadedModel(
            network=self.network.dis.eval(),
            recipe=recipe,
            contract=contract,
            data_file=None,
            checkpoint=Path(str(config.get("_name_or_path", ""))),
            step=config.step,
            device=self.network.device,
            vae=self.vae,
        )
        drawn = sample(trained, n, classes=classes, seed=seed, **settings)
        return ImagePipelineOutput(images=[drawn[index] for index in range(n)])
