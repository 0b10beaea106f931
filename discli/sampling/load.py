"""A trained network, ready to use: averaged weights, recipe and contract of a run, a checkpoint or one file."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from discli.data.autoencoders import Codec, load_codec
from discli.diffusion.guidance import Network
from discli.model import DiS, load_network
from discli.model.adapt import without_lora
from discli.model.compiled import with_compiled_blocks
from discli.model.lora import merge_lora
from discli.model.mixers import choose_scan
from discli.recipe import DataContract, Recipe
from discli.recipe.sample import SampleSpec
from discli.runs.checkpoint import newest_checkpoint, read_description
from discli.runs.description import Began, read_began
from discli.runs.layout import RunFolder, ema_file, find_run, is_checkpoint
from discli.runs.verify import verify_checkpoint
from discli.runtime.console import stderr
from discli.runtime.devices import pick_device, settle_precision
from discli.runtime.errors import DiscliError
from discli.runtime.signals import hold_ctrl_c

CPU_MODEL_BATCH = 16
# With both halves of guidance enough to fill a large GPU; more would only be more to compute for a few images.
LARGEST_MODEL_BATCH = 64
# What is left of a card for the autoencoder, for another process, and for fragmentation.
_SHARE_OF_CARD = 0.6


@dataclass(frozen=True)
class LoadedModel:
    """A network with averaged weights, and all that is needed to use it."""

    network: DiS
    recipe: Recipe
    contract: DataContract
    data_file: str | None
    checkpoint: Path
    step: int
    device: torch.device
    vae: torch.nn.Module | None = None  # the autoencoder, where it is loaded already
    began: Began | None = None  # what it was trained on from, if not from nothing

    # Images a call by precision, guidance and shape: found by trying, and the same for every draw from this network.
    model_batches: dict[tuple[object, ...], int] = field(default_factory=dict, compare=False, repr=False)

    def load_codec(self) -> Codec:
        """Raises DiscliError when the autoencoder that the data was encoded with cannot be had. Loaded once."""
        return self._codec

    @cached_property
    def sha256(self) -> str:
        """Of the weights in float32, by name: the same wherever they lie, and in whichever file."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.float().cpu().flatten().numpy())
        return digest.hexdigest()

    @cached_property
    def _codec(self) -> Codec:
        return load_codec(self.contract.codec, self.device, self.vae)


def load(run: str | Path | None = None, device: str | None = None, step: int | None = None) -> LoadedModel:
    """The averaged weights of a run, ready to sample from: ``from discli import load``.

    ``run`` is a run's folder or its name below ``runs/``, a checkpoint's folder, a .safetensors file of
    ``discli export``, or a model's name (``discli models``); None takes the newest run under ``runs/``. ``step``
    picks an older checkpoint.
    """
    return load_model(Path(run) if run is not None else newest_run(Path("runs")), pick_device(device), step)


def load_model(path: Path, device: torch.device, step: int | None = None) -> LoadedModel:
    """`load` for a path that is known. Raises DiscliError for anything that is not a whole checkpoint of discli."""
    path = find_run(path)
    file = find_weights(path, step)
    recipe, contract, found, metadata = read_description(file)
    if step not in (None, found):
        raise DiscliError(f"{file} is of step {found:,}, not {step:,}.", "Leave --checkpoint out, or name its run.")
    choice = choose_scan(recipe.model, device)
    try:
        network = load_network(recipe, read_weights(file, device)).eval().requires_grad_(False)
    except RuntimeError:
        of_a_run = file.parent.name.isdecimal()
        raise DiscliError(
            f"{file} holds weights of another architecture than its recipe.",
            "Take another checkpoint of the run: --checkpoint STEP." if of_a_run else "Export its run again.",
        ) from None
    stderr.print(f"scan: {choice.name} ({choice.reason})")
    return LoadedModel(
        network=network,
        recipe=recipe,
        contract=contract,
        data_file=metadata.get("data_file"),
        checkpoint=file if file == path else file.parent,
        step=found,
        device=device,
        began=read_began(metadata),
    )


def merged(model: LoadedModel) -> LoadedModel:
    """The same model without LoRA: W + B A in the place of each W. Raises DiscliError where it has none."""
    if model.recipe.model.lora is None:
        raise DiscliError(f"--merge: {model.checkpoint} has no LoRA.", "Leave --merge out.")
    recipe = without_lora(model.recipe)
    network = load_network(recipe, merge_lora(model.network.state_dict())).eval().requires_grad_(False)
    return replace(model, network=network, recipe=recipe)


def newest_run(runs: Path) -> Path:
    """The run whose checkpoints changed last; says which."""
    found = [run for run in map(RunFolder, sorted(runs.glob("*"))) if run.find_checkpoints()]
    if not found:
        raise DiscliError(f"No trained run under {runs}/.", "Train one (discli train RECIPE), or name a run's folder.")
    newest = max(found, key=lambda run: run.checkpoints.stat().st_mtime).path
    stderr.print(f"Newest run: {newest}")
    return newest


def precision_of(settings: SampleSpec, device: torch.device) -> Literal["bf16", "fp32"]:
    """fp32 or bf16: what the settings say, or for auto what ``device`` is good at."""
    return settle_precision(settings.precision, device).name


def as_sampled(network: DiS, device: torch.device, settings: SampleSpec) -> Network:
    """The network as sampling calls it: in its precision, and compiled where that is asked for.

    Its answers are float32 whatever the precision, for guidance takes differences of them. On CUDA the
    compiled network is a CUDA graph (not tried on a GPU yet). All calls of a run have one batch size, or
    two where guidance pauses, so that it is captured once for each. A graph writes every answer to the
    same memory, hence the copy. Elsewhere its blocks are compiled; raises DiscliError where nothing can
    compile them.
    """
    half = precision_of(settings, device) == "bf16"
    graphs = settings.compile and device.type == "cuda"
    if graphs:
        network = torch.compile(network, mode="reduce-overhead", dynamic=False)  # type: ignore[assignment]
    elif settings.compile:
        network = with_compiled_blocks(network, device)

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            out: Tensor = network(x, t, y)
        return out.to(torch.float32, copy=graphs)

    return call


def find_model_batch(model: LoadedModel, settings: SampleSpec, shape: tuple[int, int, int] | None = None) -> int:
    """Images of ``shape`` (C, H, W; None: as trained) per model call: the recipe's number, or what fits the card.

    Fits means the card's whole memory, not what is free of it, so that all cards of a kind find the
    same number: pixels depend on it in the last bits. Not tried on a GPU yet.
    """
    if settings.model_batch != "auto":
        return settings.model_batch
    if model.device.type != "cuda":
        return CPU_MODEL_BATCH
    shape = shape or model.recipe.input_shape
    asked = precision_of(settings, model.device), settings.cfg_scale == 1.0, shape
    if asked not in model.model_batches:
        # The first call also takes what stays: cuBLAS' workspace, for one.
        _, few, many = (_peak_bytes(model, settings, images, shape) for images in (8, 8, 16))
        weights = sum(parameter.nbytes for parameter in model.network.parameters())
        total = torch.cuda.get_device_properties(model.device).total_memory
        found = largest_batch(total, fixed=weights + 2 * few - many, per_image=(many - few) / 8)
        model.model_batches[asked] = found
    return model.model_batches[asked]


def largest_batch(total: int, fixed: float, per_image: float) -> int:
    """The largest power of two that fits into our share of ``total`` bytes, from 1 to LARGEST_MODEL_BATCH."""
    fitting = (_SHARE_OF_CARD * total - fixed) / per_image if per_image > 0 else LARGEST_MODEL_BATCH
    batch = 1
    while 2 * batch <= min(fitting, LARGEST_MODEL_BATCH):
        batch *= 2
    return batch


@torch.no_grad()
def _peak_bytes(model: LoadedModel, settings: SampleSpec, images: int, shape: tuple[int, int, int]) -> int:
    """Memory that a call for that many images, both halves of guidance, takes at its worst moment."""
    recipe, device = model.recipe, model.device
    rows = images * (1 if settings.cfg_scale == 1.0 else 2)
    x = torch.zeros(rows, *shape, device=device)
    y = torch.zeros(rows, dtype=torch.int64, device=device) if recipe.model.num_classes else None
    network = as_sampled(model.network, device, settings.model_copy(update={"compile": False}))
    before = torch.cuda.memory_allocated(device)  # other things than ours too, in a notebook
    torch.cuda.reset_peak_memory_stats(device)
    network(x, torch.zeros_like(x[:, 0, 0, 0]), y)
    return torch.cuda.max_memory_allocated(device) - before


def find_weights(path: Path, step: int | None = None) -> Path:
    """The file of averaged weights that ``path`` stands for: itself, a checkpoint's, or a run's newest checkpoint's.

    Raises DiscliError where there is none, or not a whole one.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise DiscliError(
                f"{path} is not a .safetensors file; other files could run code and are not opened.",
                f"A checkpoint of the DiS authors' code: discli import {path}",
            )
        return path
    if is_checkpoint(path):
        return _undamaged(path)
    if step is not None:
        checkpoint = RunFolder(path).checkpoint(step)
        if not checkpoint.is_dir():
            raise DiscliError(f"{path} has no checkpoint of step {step}.", f"Look in {checkpoint.parent}.")
        return _undamaged(checkpoint)
    newest = newest_checkpoint(path)
    if newest is None:
        missing = "" if path.exists() else ", which does not exist"
        hint = "Give the folder of a run, or a model's name; discli runs and discli models list them."
        if (path / "model_index.json").is_file():
            hint = "diffusers loads such a folder. Here give the run that it was exported from."
        raise DiscliError(f"No checkpoint in {path}{missing}.", hint)
    return ema_file(newest)


def _undamaged(checkpoint: Path) -> Path:
    """The averaged weights of a checkpoint that was asked for by its name; what else it held may be gone."""
    file = ema_file(checkpoint)
    fault = verify_checkpoint(checkpoint, [file.name])
    if fault is not None:
        raise DiscliError(f"{checkpoint} is corrupt ({fault}).", "Give its run: the newest whole checkpoint is taken.")
    return file


@hold_ctrl_c()
def read_weights(file: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """In float32. Raises DiscliError where it is no safetensors file."""
    try:
        return {name: tensor.float() for name, tensor in load_file(file, device=str(device)).items()}
    except (SafetensorError, OSError) as error:
        raise DiscliError(f"{file} cannot be read as safetensors: {error}.", "Use another checkpoint.") from None
