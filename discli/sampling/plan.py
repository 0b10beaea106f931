"""A sampling plan: the model, the settled settings, classes and seed that every image follows from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from discli import __version__
from discli.diffusion import count_evaluations
from discli.diffusion.guidance import Network
from discli.recipe import Recipe
from discli.recipe.sample import SampleSpec
from discli.runs.layout import find_run
from discli.runs.manifest import Format, Manifest
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.rng import LARGEST_SEED, RngStream, uniform
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

    def labels(self, members: Tensor) -> Tensor | None:
        """(B,) int64, the classes of the images with numbers ``members`` (B,); None for an unconditional model."""
        return draw_classes(members, self.classes, self.model.recipe.model.num_classes, self.seed)

    def classes_of(self, n: int) -> list[int] | None:
        """The classes of the first n images; None for an unconditional model."""
        labels = self.labels(torch.arange(n))
        return None if labels is None else labels.tolist()

    def networks(self) -> tuple[Network, Network | None]:
        """The one that samples, and autoguidance's other one."""
        device = self.model.device
        weak = as_sampled(self.weak.network, device, self.settings) if self.weak is not None else None
        return as_sampled(self.model.network, device, self.settings), weak

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
            data_file=model.data_file,
            n=n,
            format=format,
            seed=self.seed,
            nfe=count_evaluations(recipe.diffusion, settings, recipe.in_channels),
            autoguidance_checkpoint=str(self.weak.checkpoint.resolve()) if self.weak is not None else None,
            ema=recipe.train.ema,
            class_choice=self.classes or "random",
            classes=None if classes is None else tuple(classes),
            recipe=recipe,
            contract=model.contract,
        )


def plan_sampling(
    run: LoadedModel | str | Path | None = None,
    settings: SampleSettings | None = None,
    *,
    classes: str | Sequence[str | int] = "random",
    seed: int = 0,
    checkpoint_step: int | None = None,
    device: str | None = None,
) -> SamplingPlan:
    """Check and settle all of what `discli.sample` takes; the arguments are explained there.

    Raises DiscliError for what the model cannot do.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise DiscliError(f"seed {seed}: not a seed.", "Give a whole number from 0 to 2^64 - 1.")
    if isinstance(run, LoadedModel):
        model = run
    else:
        model = load_model(Path(run) if run else newest_run(Path("runs")), pick_device(device), checkpoint_step)
    recipe = model.recipe
    settled = settle_settings(recipe, settings or {})
    wanted = parse_classes(classes, recipe.model.num_classes, model.contract.class_names)
    weak = None
    if settled.guidance.name == "autoguidance":
        weak = load_model(Path(settled.guidance.checkpoint), model.device)
        check_weak(weak, recipe)
    precision = precision_of(settled, model.device)
    batch = find_model_batch(model, settled)
    settled = settled.model_copy(update={"precision": precision, "model_batch": batch})
    return SamplingPlan(model, settled, wanted, seed, weak)


def draw_classes(members: Tensor, wanted: Sequence[int], num_classes: int, seed: int) -> Tensor | None:
    """(B,) int64, the class of each image of ``members`` (B,): in turn from ``wanted``, else at random from (seed, i).

    None for unconditional models.
    """
    if num_classes == 0:
        return None
    if wanted:
        return torch.tensor(wanted, device=members.device)[members % len(wanted)]
    return (uniform(seed, RngStream.CLASS, 0, members) * num_classes).long().clamp(max=num_classes - 1)


def check_weak(weak: LoadedModel, recipe: Recipe) -> None:
    """Autoguidance subtracts two answers to one question, so the question must be the same.

    Raises DiscliError where it is not.
    """
    for what in ("in_channels", "input_size", "diffusion"):
        if getattr(weak.recipe, what) != getattr(recipe, what):
            raise DiscliError(
                f"Autoguidance: {weak.checkpoint} has another {what} than the model it is to guide.",
                "Give an earlier checkpoint of the same run, or a smaller model of the same recipe.",
            )
    if weak.recipe.model.num_classes not in (0, recipe.model.num_classes):
        raise DiscliError(f"Autoguidance: {weak.checkpoint} knows other classes.", "Give one of the same data.")


def run_of(checkpoint: Path) -> Path:
    """The run's folder; of weights that lie in none (an exported file, a copied checkpoint) themselves."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
