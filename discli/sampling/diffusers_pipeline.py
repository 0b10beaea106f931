"""An exported run as diffusers sees it: a network, an autoencoder where there is one, and a pipeline.

``discli export RUN --to diffusers`` writes a folder whose two small modules hand these classes on, so
that ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` finds them. Published
folders import ``discli.sampling.diffusers_pipeline``, so this module and its two classes keep their
names. Images are those of ``discli sample`` with the same settings, bit for bit on a CPU.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor

from discli.model import DiS
from discli.recipe import DataContract, parse_recipe
from discli.recipe.size import as_size
from discli.runtime.errors import DiscliError
from discli.sampling.edit import ImageInput
from discli.sampling.load import LoadedModel
from discli.sampling.sample import sample
from discli.sampling.settings import SampleSettings

_THEIR_NAMES = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "init": "image",
    "mask": "mask_image",
}


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
    """``pipe(16, classes="balanced", guidance_scale=2.0).images``: as `discli.sample`, as PIL images."""

    _optional_components = ("vae",)

    def __init__(self, network: DiSModel, vae: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.register_modules(network=network, vae=vae)
        self._ready: LoadedModel | None = None

    @torch.no_grad()
    def __call__(
        self,
        n: int | None = None,
        classes: str | Sequence[str | int] = "random",
        seed: int | None = None,
        *,
        class_labels: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        image: ImageInput | Sequence[ImageInput] | None = None,
        mask_image: ImageInput | None = None,
        strength: float | None = None,
        resample: int | None = None,
        invert: bool = False,
        between: Literal["noises", "classes"] | None = None,
        height: int | None = None,
        width: int | None = None,
        **settings: Unpack[SampleSettings],
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw ``n`` images (16; with ``class_labels``, one for each), or edit ``image``.

        Args:
            classes: "random", "balanced", or names and numbers, taken in turn.
            seed: image i depends on (seed, i) alone; 0 where no ``generator`` is given.
            class_labels: diffusers' other name of ``classes``, numbers.
            num_inference_steps: ``steps``.
            guidance_scale: ``cfg_scale``; 1 is none.
            generator: the seed is drawn from it, so that a second call gives other images.
            output_type: "pil"; "np", (n, H, W, 3), or "pt", (n, 3, H, W): float32 in [0, 1].
            return_dict: False gives a tuple.
            image: ``init``, to begin from: a file, a PIL image, or several.
            mask_image: ``mask``; what is white is drawn.
            strength, resample, invert, between: as those of `discli.sample`.
            height, width: ``size`` in pixels; of one alone a square.
            settings: other arguments of `discli.sample`: sampler, cfg_interval, ...

        Raises DiscliError for what the model cannot do, ValueError for arguments that contradict each other,
        TypeError for arguments that do not exist.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f'output_type {output_type!r}: choose "pil", "np" or "pt".')
        if class_labels is not None:
            classes = [int(label) for label in class_labels]
        edited = image is not None or between is not None
        count = n if n is not None or edited else 16 if class_labels is None else len(classes)
        if generator is not None:
            if not isinstance(generator, torch.Generator) or seed is not None:
                raise ValueError("Give one generator, or a seed.")
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        if num_inference_steps is not None and settings.setdefault("steps", num_inference_steps) != num_inference_steps:
            raise ValueError(f"steps {settings['steps']} and num_inference_steps {num_inference_steps} differ.")
        if guidance_scale is not None and settings.setdefault("cfg_scale", guidance_scale) != guidance_scale:
            raise ValueError(f"cfg_scale {settings['cfg_scale']} and guidance_scale {guidance_scale} differ.")
        size = None if height is width is None else as_size([height or width, width or height])
        try:
            drawn = sample(
                self._loaded_model(),
                count,
                classes=classes,
                seed=seed or 0,
                init=image,
                mask=mask_image,
                strength=strength,
                resample=resample,
                invert=invert,
                between=between,
                size=size,
                **settings,
            )
        except DiscliError as error:
            raise DiscliError(_in_python(error.message), _in_python(error.hint), status=error.status) from None
        images: Any = [drawn[index] for index in range(len(drawn))]
        if output_type != "pil":
            images = drawn.pixels.float() / 255
            images = images if output_type == "pt" else images.permute(0, 2, 3, 1).contiguous().numpy()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _loaded_model(self) -> LoadedModel:
        """The parts as `sample` takes them; the same while they stay where they are, with the codec already loaded."""
        network, device = self.network.dis, self.network.device
        ready = self._ready
        if ready is None or ready.network is not network or ready.vae is not self.vae or ready.device != device:
            config = self.network.config
            ready = self._ready = LoadedModel(
                network=network.eval(),
                recipe=parse_recipe(dict(config.recipe), "config.json"),
                contract=DataContract.model_validate(dict(config.contract)),
                data_file=None,
                checkpoint=Path(str(config.get("_name_or_path", ""))),
                step=config.step,
                device=device,
                vae=self.vae,
            )
        return ready


def _in_python(text: str) -> str:
    """What is said of the command's flags, of arguments."""
    text = re.sub(r"(?<!\S)-n ", "n ", text.replace("flags of discli sample", "the arguments"))

    def argument(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return _THEIR_NAMES.get(name, name)

    return re.sub(r"--([a-z][a-z-]*)", argument, text)
