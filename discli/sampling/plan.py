"""A sampling plan: the model, the settled settings, classes and seed that every image follows from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from discli import __version__
from discli.diffusion import count_evaluations, takes_noise
from discli.diffusion.edit import Edit
from discli.diffusion.guidance import Network
from discli.diffusion.samplers import Noise
from discli.recipe import Recipe
from discli.recipe.codec import CodecIdentity
from discli.recipe.differences import brief, first_difference
from discli.recipe.sample import SampleSpec
from discli.recipe.size import Size
from discli.runs.layout import find_run, run_of
from discli.runs.manifest import Between, Format, Manifest
from discli.runtime.console import stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.rng import LARGEST_SEED, RngStream, normal, uniform
from discli.sampling.between import noise_between, settle_between, shares, with_classes_between
from discli.sampling.edit import EditSettings, GivenImages, settle_edit
from discli.sampling.load import LoadedModel, as_sampled, find_model_batch, load_model, newest_run, precision_of
from discli.sampling.settings import SampleSettings, parse_classes, settle_settings


@dataclass(frozen=True)
class SamplingPlan:
    """Everything that image i depends on, beside i: `plan_sampling` makes one."""

    model: LoadedModel
    settings: SampleSpec  # model_batch and precision are settled
    classes: tuple[int, ...]  # taken in turn; empty: at random
    seed: int
    weak: LoadedModel | None = None  # autoguidance's other network
    given: GivenImages | None = None  # to begin from, instead of from noise alone
    between: Between | None = None
    n: int | None = None  # how many images there are, where the last two say
    asked_size: Size | None = None  # in pixels, where it is not the training's

    @property
    def size(self) -> Size:
        """Of the images, in pixels."""
        return self.asked_size or self.model.contract.resolution

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network sees of one."""
        return shape_of(self.model.recipe, self.size)

    def labels(self, members: Tensor) -> Tensor | None:
        """(B,) int64, the classes of the images with numbers ``members`` (B,); None for an unconditional model.

        Between classes, numbers beyond all classes: those that the networks of `networks` know.
        """
        count = self.model.recipe.model.num_classes
        if self.between is not None and self.between.what == "classes":
            return count + 1 + members.clamp(max=self.between.frames - 1)
        if self.between is not None:
            members = torch.zeros_like(members)
        return draw_classes(members, self.classes, count, self.seed)

    def classes_of(self, n: int) -> list[int] | None:
        """The classes of the first n images; None for an unconditional model, and between classes."""
        if self.between is not None and self.between.what == "classes":
            return None
        labels = self.labels(torch.arange(n))
        return None if labels is None else labels.tolist()

    def noise(self, members: Tensor) -> Noise:
        """Step k's for the images with numbers ``members`` (B,), and for k = -1 where they begin: (B, C, H, W)."""
        shape = self.shape
        if self.between is None:
            return noise_of(shape, self.seed, members)
        if self.between.what == "classes":
            return noise_of(shape, self.seed, torch.zeros_like(members))
        first, second = (noise_of(shape, self.seed, torch.full_like(members[:1], end)) for end in (0, 1))
        return noise_between(shares(self.between, members), first, second)

    def networks(self) -> tuple[Network, Network | None]:
        """The one that samples, and autoguidance's other one."""

        def ready(model: LoadedModel) -> Network:
            network = model.network
            # Before it is compiled: places are no part of what is.
            network.lay_out(Size(*self.shape[1:]).cut_into(network.patch_size), model.device)
            if self.between is not None and self.between.what == "classes":
                frames = torch.arange(self.between.frames, device=model.device)
                first, second = self.classes
                network = with_classes_between(network, (first, second), shares(self.between, frames))
            return as_sampled(network, model.device, self.settings)

        return ready(self.model), None if self.weak is None else ready(self.weak)

    def decode(self, numbers: Sequence[int], x0: Tensor) -> Tensor:
        """The images with these ``numbers``: (B, C, H, W) in model space to (B, 3, H, W) uint8, on the device."""
        images = self.model.load_codec().decode(x0)
        return images if self.given is None else self.given.keep(numbers, images)

    @property
    def model_batch(self) -> int:
        """Images per network call."""
        assert isinstance(self.settings.model_batch, int)
        return self.settings.model_batch

    def groups(self, n: int) -> range:
        """The groups of ``model_batch`` images that hold the first n."""
        return range(-(-n // self.model_batch))

    def manifest(self, n: int, format: Format) -> Manifest:
        """Everything needed to make the first n images again."""
        model, settings, classes = self.model, self.settings, self.classes_of(n)
        recipe = model.recipe
        if settings.guidance.name == "autoguidance":  # by where it lies, not by how somebody named it
            where = str(find_run(settings.guidance.checkpoint).resolve())
            settings = settings.model_copy(
                update={"guidance": settings.guidance.model_copy(update={"checkpoint": where})}
            )
        return Manifest(
            **dict(settings),
            discli_version=__version__,
            torch_version=torch.__version__,
            device=torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
            run=str(run_of(model.checkpoint.resolve())),
            checkpoint=str(model.checkpoint.resolve()),
            step=model.step,
            model_sha256=model.sha256,
            data_file=model.data_file,
            n=n,
            format=format,
            seed=self.seed,
            nfe=count_evaluations(recipe.diffusion, settings, recipe.in_channels, self._edit()),
            autoguidance_checkpoint=str(self.weak.checkpoint.resolve()) if self.weak is not None else None,
            autoguidance_sha256=self.weak.sha256 if self.weak is not None else None,
            ema=recipe.train.ema,
            class_choice=self.classes or "random",
            classes=None if classes is None else tuple(classes),
            edit=self.given and self.given.record,
            between=self.between,
            size=self.asked_size,
            recipe=recipe,
            contract=model.contract,
        )

    def _edit(self) -> Edit | None:
        return None if self.given is None else self.given.edit_of(torch.zeros(1, dtype=torch.int64))


def plan_sampling(
    run: LoadedModel | str | Path | None = None,
    settings: SampleSettings | None = None,
    *,
    classes: str | Sequence[str | int] = "random",
    seed: int = 0,
    checkpoint_step: int | None = None,
    device: str | None = None,
    edit: EditSettings | None = None,
    n: int | None = None,
    size: Size | None = None,
) -> SamplingPlan:
    """Check and settle all of what `discli.sample` takes; the arguments are explained there.

    ``n`` images are asked for; None: as many as ``edit`` makes of its own. ``size`` is in pixels. Raises
    DiscliError for what the model cannot do.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise DiscliError(f"seed {seed}: not a seed.", "Give a whole number from 0 to 2^64 - 1.")
    if isinstance(run, LoadedModel):
        model = run
    else:
        model = load_model(Path(run) if run else newest_run(Path("runs")), pick_device(device), checkpoint_step)
    recipe, edit = model.recipe, edit or EditSettings()
    settled = settle_settings(recipe, settings or {})
    wanted = parse_classes(classes, recipe.model.num_classes, model.contract.class_names)
    if edit.invert:
        settled = _without_noise(recipe, settings or {}, settled)
    _check_size(model, size)
    given, count = settle_edit(model, edit, n, wanted, size)
    size = given.size if given else size or model.contract.resolution
    between = settle_between(edit.between, n, wanted, recipe.model.num_classes)
    weak = None
    if settled.guidance.name == "autoguidance":
        weak = load_model(Path(settled.guidance.checkpoint), model.device)
        check_weak(weak, recipe, model.contract.codec)
    precision = precision_of(settled, model.device)
    batch = find_model_batch(model, settled, shape_of(recipe, size))
    settled = settled.model_copy(update={"precision": precision, "model_batch": batch})
    frames = between.frames if between else count
    other = None if size == model.contract.resolution else size
    return SamplingPlan(model, settled, wanted, seed, weak, given, between, frames, other)


def shape_of(recipe: Recipe, size: Size) -> tuple[int, int, int]:
    """(C, H, W) of what the recipe's network sees of images of ``size`` px."""
    return (recipe.in_channels, *size.cut_into(recipe.data.codec.downsample))


def noise_of(shape: tuple[int, int, int], seed: int, members: Tensor) -> Noise:
    """Step k of image i draws from (seed, NOISE, k + 1, i), ``shape`` (C, H, W); k = -1 is where it starts."""

    def noise(k: int) -> Tensor:
        return normal(seed, RngStream.NOISE, k + 1, members, shape)

    return noise


def _check_size(model: LoadedModel, size: Size | None) -> None:
    """Raises DiscliError for what does not divide into patches; says so where nothing was trained for it."""
    if size is None or size in model.contract.sizes:
        return
    recipe = model.recipe
    multiple = recipe.data.codec.downsample * recipe.model.patch_size
    if not size.divides_by(multiple):
        raise DiscliError(
            f"--size {size} does not divide into patches of {multiple} px.",
            f"Nearest: --size {size.nearest_multiple(multiple)}",
        )
    stderr.print(f"Trained on {model.contract.resolution} px, sampled at {size}: positions are resized.")


def _without_noise(recipe: Recipe, asked: SampleSettings, settled: SampleSpec) -> SampleSpec:
    """For an inversion: what is ``settled``, or DDIM (of flow, Euler) for a recipe's sampler that draws noise.

    Raises DiscliError where such a one was ``asked`` for.
    """
    plain = "euler" if recipe.diffusion.objective.process == "flow" else "ddim"
    if takes_noise(recipe.diffusion, settled) and asked.get("sampler") is None:
        settled = settle_settings(recipe, {**asked, "sampler": {"name": plain}})
    if takes_noise(recipe.diffusion, settled):
        raise DiscliError(
            f"--invert: {settled.sampler.name} draws noise at every step, and so does not lead back to the image.",
            f"Take --sampler {plain}, which draws none of its own accord.",
        )
    return settled


def draw_classes(members: Tensor, wanted: Sequence[int], num_classes: int, seed: int) -> Tensor | None:
    """(B,) int64, the class of each image of ``members`` (B,): in turn from ``wanted``, else at random from (seed, i).

    None for unconditional models.
    """
    if num_classes == 0:
        return None
    if wanted:
        return torch.tensor(wanted, device=members.device)[members % len(wanted)]
    return (uniform(seed, RngStream.CLASS, 0, members) * num_classes).long().clamp(max=num_classes - 1)


def check_weak(weak: LoadedModel, recipe: Recipe, codec: CodecIdentity) -> None:
    """Autoguidance subtracts two answers to one question, so the question must be the same.

    Raises DiscliError where it is not.
    """
    for what in ("in_channels", "input_size", "diffusion"):
        if getattr(weak.recipe, what) != getattr(recipe, what):
            raise DiscliError(
                f"Autoguidance: {weak.checkpoint} has another {what} than the model it is to guide.",
                "Give an earlier checkpoint of the same run, or a smaller model of the same recipe.",
            )
    # Where the autoencoder lies, and weights of it that an import does not know, say nothing of what a model sees.
    unlike = {"vae", "weights_sha256"}
    seen, other = (each.model_dump(mode="json", exclude=unlike) for each in (codec, weak.contract.codec))
    if (different := first_difference(seen, other)) is not None:
        raise DiscliError(
            f"Autoguidance: {weak.checkpoint} sees images otherwise than the model it is to guide: codec."
            f"{different[0]} is {brief(different[2])}, not {brief(different[1])}.",
            "Give one trained on the same data file.",
        )
    if weak.recipe.model.num_classes not in (0, recipe.model.num_classes):
        raise DiscliError(f"Autoguidance: {weak.checkpoint} knows other classes.", "Give one of the same data.")
