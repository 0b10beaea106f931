"""A whole recipe: what ``discli train`` is given, and what every checkpoint carries."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from discli.recipe.data import DataSpec
from discli.recipe.diffusion import DiffusionSpec, names_that_fit
from discli.recipe.model import ModelSpec
from discli.recipe.sample import SAMPLERS, EvalSpec, SampleSpec, spaced_timesteps
from discli.recipe.size import Size
from discli.recipe.spec import Spec
from discli.recipe.train import TrainSpec


class Recipe(Spec):
    """Everything that decides a run. Shapes follow from the data: ``input_size``, ``in_channels``."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$", description="letters, digits, . _ + and -")]
    model: ModelSpec
    data: DataSpec
    diffusion: DiffusionSpec = DiffusionSpec()
    train: TrainSpec
    sample: SampleSpec = SampleSpec()
    eval: EvalSpec = EvalSpec()

    @property
    def in_channels(self) -> int:
        return self.data.codec.channels

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.diffusion.learn_sigma else 1)

    @property
    def input_size(self) -> Size:
        """What the model sees, in pixels or latent cells."""
        return self.data.resolution.cut_into(self.data.codec.downsample)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the model sees."""
        return (self.in_channels, *self.input_size)

    @property
    def grid(self) -> Size:
        """Of patches."""
        return self.input_size.cut_into(self.model.patch_size)

    @property
    def num_patches(self) -> int:
        return self.grid.area

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        down, patch = self.data.codec.downsample, self.model.patch_size
        if not self.data.resolution.divides_by(down * patch):
            latent = "" if down == 1 else f" {down}x down"
            raise ValueError(
                f"data.resolution {self.data.resolution}{latent} does not divide into patches of {patch}"
                f" (model.patch_size): it must be a multiple of {down * patch}"
            )
        return self

    @model_validator(mode="after")
    def _auxiliary_losses_fit(self) -> Self:
        for loss in self.train.auxiliary.values():
            loss.check(self.model)
        if self.train.route is not None:
            self.train.route.check(self.model, self.train.auxiliary)
        return self

    @model_validator(mode="after")
    def _sampler_fits(self) -> Self:
        process = self.diffusion.objective.process
        if process not in self.sample.sampler.fits:
            raise ValueError(
                f'sample.sampler "{self.sample.sampler.name}" does not fit diffusion.objective'
                f' "{self.diffusion.objective.name}": use {names_that_fit(SAMPLERS, process)}'
            )
        return self

    @model_validator(mode="after")
    def _steps_within_schedule(self) -> Self:
        """Of more sampling steps than timesteps, some would repeat one; flow's time is continuous."""
        most = self.diffusion.num_timesteps
        for key, steps in (
            ("sample.steps", self.sample.steps),
            ("train.score.sampling_steps", self.train.score.sampling_steps or 0),
        ):
            if self.diffusion.objective.process == "betas" and steps > most:
                raise ValueError(f"{key} {steps} is more than diffusion.num_timesteps {most}")
        return self

    @model_validator(mode="after")
    def _contrast_has_others(self) -> Self:
        if self.diffusion.contrastive and self.train.batch_size < 2:
            raise ValueError("diffusion.contrastive needs another sample in the batch: train.batch_size of 2 or more")
        return self

    @model_validator(mode="after")
    def _spacing_fits(self) -> Self:
        sample, objective = self.sample, self.diffusion.objective
        spacing = sample.timestep_spacing
        if objective.process == "flow":
            if spacing != "linspace":
                raise ValueError(
                    f'sample.timestep_spacing "{spacing}" chooses among the timesteps of a schedule of betas;'
                    f' the time of "{objective.name}" is continuous: use "linspace", and sample.time_shift'
                )
            return self
        if sample.time_shift is not None:
            raise ValueError(
                f"sample.time_shift {sample.time_shift:g} is for the straight path, which"
                f' "{objective.name}" has not: leave it out'
            )
        if spacing not in sample.sampler.spacings:
            raise ValueError(
                f'sample.timestep_spacing "{spacing}" is not one of sampler "{sample.sampler.name}":'
                f" use {', '.join(repr(name) for name in sample.sampler.spacings)}"
            )
        for key, steps in (
            ("sample.steps", sample.steps),
            ("train.score.sampling_steps", self.train.score.sampling_steps),
        ):
            if steps is not None and spacing == "ddim":
                try:
                    spaced_timesteps(spacing, self.diffusion.num_timesteps, steps)
                except ValueError as error:
                    raise ValueError(f'{key} {steps} with timestep_spacing "ddim": {error}') from None
        return self

    @model_validator(mode="after")
    def _guidance_needs_classes(self) -> Self:
        weaker_model = self.sample.guidance.name == "autoguidance"
        if self.model.num_classes == 0 and self.sample.cfg_scale != 1.0 and not weaker_model:
            raise ValueError("sample.cfg_scale other than 1 needs a class-conditional model (model.num_classes > 0)")
        return self
