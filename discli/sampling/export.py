"""``discli export RUN``: a run's averaged weights, out to other programs and people.

``--to safetensors`` writes one file, the recipe in its metadata; ``--to model`` the same in float16, and a card
beside it, for a folder of `discli.runs.box`; ``--to diffusers`` a folder that diffusers loads and samples from,
with a model card; ``--push-to-hub`` uploads that folder.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

from discli import __version__
from discli.data.autoencoders.hub import hub_answers
from discli.data.autoencoders.vae import VaeCodec
from discli.data.contact_sheet import save_image
from discli.recipe import parse_recipe
from discli.recipe.load import with_overrides
from discli.runs.box import VARIABLE
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runs.layout import RunFolder, run_of
from discli.runs.logs import finite_numbers, read_log
from discli.runs.models import ModelCard, card_file, read_card
from discli.runtime.console import format_bytes, format_seconds, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.files import sha256_of, to_json, write_beside, write_text
from discli.sampling.diffusers_pipeline import DiSModel
from discli.sampling.diffusers_scheduler import diffusers_scheduler
from discli.sampling.load import LoadedModel
from discli.sampling.model_card import model_card
from discli.sampling.sample import sample

CARD_ROWS, CARD_COLUMNS = 8, 6  # classes, spread over all, and images of each

# What diffusers executes when it loads the folder: our classes, by their names.
_PIPELINE = '''"""Loaded by diffusers with trust_remote_code=True; needs discli (pip install discli)."""

from discli.sampling.diffusers_pipeline import DiSPipeline

__all__ = ["DiSPipeline"]
'''
_NETWORK = _PIPELINE.replace("DiSPipeline", "DiSModel")


def export_safetensors(model: LoadedModel, out: str | Path | None = None) -> Path:
    """One file that ``discli sample`` takes, too. Default: the run's name beside the run."""
    path = Path(out or f"{model.recipe.name}.safetensors")
    _write_weights(path, model, torch.float32)
    stderr.print(f"{path}: {format_bytes(path.stat().st_size)}, the recipe in its metadata. discli sample {path}")
    return path


def with_sampling(model: LoadedModel, overrides: Sequence[str]) -> LoadedModel:
    """With other settings of ``[sample]`` than it was trained with, such as ``sample.cfg_scale=1.5``.

    Raises DiscliError for any other setting: the network is trained.
    """
    if other := next((override for override in overrides if not override.startswith("sample.")), None):
        raise DiscliError(
            f"--set {other}: the model is trained.", "Settings of [sample], such as sample.cfg_scale=1.5."
        )
    tree = model.recipe.model_dump(mode="json")
    return replace(model, recipe=parse_recipe(*with_overrides(tree, model.recipe.name, overrides)))


def export_model(
    model: LoadedModel,
    out: str | Path | None = None,
    scores: Sequence[str | Path] = (),
    draws: str | None = None,
    terms: str | None = None,
    training: str | None = None,
) -> Path:
    """NAME.safetensors, float16, and NAME.card.json, its `ModelCard`; returns the former. The name is the model's.

    Neither says where anything lay on this machine. What is not given is that of the model's own card, if it has one;
    ``training`` is otherwise taken from the run's log. Raises DiscliError where what it draws, or the terms of its
    data, are nowhere to be found.
    """
    path = Path(out or f"{model.recipe.name}.safetensors")
    if path.suffix != ".safetensors":
        raise DiscliError(
            f"--out {path}: a model is a .safetensors file.", f"Give --out {path / model.recipe.name}.safetensors"
        )
    known = read_card(model.checkpoint)
    if known is not None:
        draws, terms, training = draws or known.draws, terms or known.terms, training or known.training
    if not (draws and terms):
        raise DiscliError(
            "A model says what it draws, and which terms its data has.",
            'Give --draws "handwritten digits" --terms "UCI digits, CC BY 4.0", of yours.',
        )
    found = tuple(_nowhere(read_eval_result(score)) for score in scores) or (known.scores if known else ())
    contract = model.contract.model_copy(update={"source": Path(model.contract.source).name})
    recipe = model.recipe.model_copy(update={"data": model.recipe.data.model_copy(update={"file": None})})
    began = model.began and model.began.without_folders()
    published = replace(model, recipe=recipe, contract=contract, data_file=None, began=began)
    _write_weights(path, published, torch.float16)
    training = training or _time_trained(model)
    card = ModelCard(draws=draws, terms=terms, training=training, sha256=sha256_of(path), scores=found)
    write_text(card_file(path), to_json(card) + "\n")
    size, name = format_bytes(path.stat().st_size), path.stem
    stderr.print(
        f"{path}: {size}, and its card {card_file(path).name}. In a folder of {VARIABLE}: discli sample {name}"
    )
    return path


def export_diffusers(model: LoadedModel, out: str | Path | None = None, scores: Sequence[str | Path] = ()) -> Path:
    """A folder for ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)``; appears whole.

    With samples.png and README.md, the model card, and where diffusers has a scheduler of the same times its
    configuration in scheduler/; ``scores`` are files of ``discli eval-fid --json``.
    """
    folder = Path(out or f"{model.recipe.name}-diffusers")
    if folder.exists():
        raise DiscliError(f"{folder} is there already.", "Give another --out.")
    card = read_card(model.checkpoint)
    known = [read_eval_result(path) for path in scores] or (card.scores if card else ())
    codec = model.load_codec()
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        index: dict[str, Any] = {
            "_class_name": ["pipeline", "DiSPipeline"],
            "_diffusers_version": diffusers.__version__,
            "network": ["dis", "DiSModel"],
            "vae": [None, None],
        }
        network = DiSModel(
            recipe=model.recipe.model_dump(mode="json"),
            contract=model.contract.model_dump(mode="json"),
            step=model.step,
        )
        network.dis.load_state_dict(model.network.state_dict())
        network.save_pretrained(temporary / "network")
        (temporary / "network" / "dis.py").write_text(_NETWORK, encoding="utf-8")
        (temporary / "pipeline.py").write_text(_PIPELINE, encoding="utf-8")
        if (scheduler := diffusers_scheduler(model.recipe)) is not None:
            scheduler.save_pretrained(temporary / "scheduler")
        if isinstance(codec, VaeCodec):
            codec.module.save_pretrained(temporary / "vae")
            index["vae"] = ["diffusers", type(codec.module).__name__]
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")

        count = model.recipe.model.num_classes
        spread = sorted({k * count // CARD_ROWS for k in range(CARD_ROWS)}) if count else []
        shown = sample(model, CARD_ROWS * CARD_COLUMNS, classes=spread, grid=(CARD_ROWS, CARD_COLUMNS))
        save_image(shown.sheet, temporary / "samples.png")
        write_text(temporary / "README.md", model_card(model, known, card.terms if card else None))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    stderr.print(f"{folder}: DiffusionPipeline.from_pretrained({str(folder)!r}, trust_remote_code=True)")
    return folder


def push_to_hub(folder: str | Path, repo: str) -> str:
    """Upload an exported folder as the model ``repo`` (user/name); returns its address.

    Raises DiscliError without a network, a login or the right to; the folder stays.
    """
    if repo.count("/") != 1:
        raise DiscliError(f"--push-to-hub {repo}: not a repository.", "Give user/name.")
    if not hub_answers():
        raise DiscliError(
            f"The hub cannot be reached. {folder} is complete and stays.",
            f"Where there is a network: hf upload {repo} {folder}",
        )
    from huggingface_hub import HfApi, errors

    try:
        api = HfApi()
        address = str(api.create_repo(repo, exist_ok=True))
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"discli {__version__}")
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiscliError(
            f"Pushing to {repo} failed: {reason}", f"Log in with hf auth login; {folder} is complete and stays."
        ) from None
    return address


def _write_weights(path: Path, model: LoadedModel, dtype: torch.dtype) -> None:
    if path.exists():
        raise DiscliError(f"{path} is there already.", "Give another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in model.network.state_dict().items()}
    write_beside(path, partial(save_file, weights, metadata=_metadata(model)))


def _nowhere(score: EvalResult) -> EvalResult:
    """Of files and folders the names alone."""
    samples: dict[str, Any] = {
        key: Path(where).name for key in ("path", "run", "checkpoint") if (where := getattr(score.samples, key))
    }
    reference = {"path": Path(score.reference.path).name}
    guidance = score.samples.guidance
    if guidance is not None and "checkpoint" in guidance.settings:
        weaker = Path(guidance.settings["checkpoint"]).name
        samples["guidance"] = guidance.model_copy(update={"checkpoint": weaker})
    parts = {"samples": score.samples.model_copy(update=samples)}
    return score.model_copy(update={**parts, "reference": score.reference.model_copy(update=reference)})


def _time_trained(model: LoadedModel) -> str:
    """By the run's log of speed: without start-up, previews and scores."""
    run = RunFolder(run_of(model.checkpoint))
    speed, before, seconds = read_log(run.log("speed")), 0, 0.0
    for step, rate in finite_numbers(speed, "images_per_second"):
        if before < step <= model.step:
            seconds += (step - before) * model.recipe.train.batch_size / rate
            before = step
    session = (read_log(run.log("sessions")) or [{}])[-1]
    if not seconds or not session:
        return "not known"
    count = session["cpu_threads"]
    threads = f", {count} thread{'s' if count > 1 else ''}" if model.device.type == "cpu" else ""
    return f"{format_seconds(seconds)} ({session['device']}{threads})"


def _metadata(model: LoadedModel) -> dict[str, str]:
    """What `discli.sampling.load.load_model` reads, as in a checkpoint."""
    return {
        "discli_version": __version__,
        "recipe": json.dumps(model.recipe.model_dump(mode="json")),
        "contract": json.dumps(model.contract.model_dump(mode="json")),
        "data_file": model.data_file or "",
        "step": str(model.step),
    } | ({"began": model.began.model_dump_json()} if model.began else {})
