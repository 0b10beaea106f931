"""``discli export --to space``: a folder that runs as a Hugging Face Space, and as ``python app.py`` anywhere.

It holds the page of ``discli demo`` in a few lines, the model and its card, and names no place on this machine.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from discli import __version__
from discli.runs.models import read_card
from discli.runtime.console import restore_quiet, stderr
from discli.runtime.errors import DiscliError
from discli.sampling.export import export_model
from discli.sampling.load import LoadedModel

_OLDEST_GRADIO = "6.31.0"  # as pyproject.toml has it
_APP = '''"""The page of ``discli demo`` for the model beside this file."""

import os
from contextlib import suppress
from pathlib import Path

from discli.sampling.drawing import Easel
from discli.sampling.load import load
from discli.sampling.page import serve

os.chdir(Path(__file__).parent)
with suppress(KeyboardInterrupt):
    serve(Easel(load("{file}"), "{file}"), ready=print)
'''


def export_space(
    model: LoadedModel,
    out: str | Path | None = None,
    scores: Sequence[str | Path] = (),
    draws: str | None = None,
    terms: str | None = None,
    training: str | None = None,
) -> Path:
    """The folder, which appears whole; what is given is of the model's card, as `export_model` takes it.

    Raises DiscliError for a model that needs anything else of this machine's: another checkpoint, or an autoencoder
    from a folder.
    """
    folder = Path(out or f"{model.recipe.name}-space")
    if folder.exists():
        raise DiscliError(f"{folder} is there already.", "Give another --out.")
    if model.recipe.sample.guidance.name == "autoguidance":
        raise DiscliError(
            "--to space: the recipe guides with another checkpoint, which would stay here.",
            "Give --set sample.guidance=classifier-free.",
        )
    weights = model.contract.codec.weights
    if weights is not None and Path(weights).exists():
        raise DiscliError(
            f"--to space: the autoencoder is in a folder of this machine, {weights}.",
            "A Space finds those that have a name on the hub.",
        )
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        file = temporary / f"{model.recipe.name}.safetensors"
        with restore_quiet():
            stderr.quiet = True  # of a place that will have another name
            export_model(model, file, scores, draws, terms, training)
        (temporary / "app.py").write_text(_APP.format(file=file.name), encoding="utf-8")
        (temporary / "requirements.txt").write_text(f"discli=={__version__}\n", encoding="utf-8")
        (temporary / "README.md").write_text(_readme(file), encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    stderr.print(
        f"{folder}: python {folder / 'app.py'} serves it here; hf upload USER/NAME {folder} --repo-type space there."
    )
    return folder


def _readme(file: Path) -> str:
    """With the front matter of the hub's Spaces. Python is the one that this was tried with."""
    card = read_card(file)
    assert card is not None
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = _OLDEST_GRADIO
    return f"""---
title: {json.dumps(file.stem)}
sdk: gradio
sdk_version: {gradio}
python_version: "{sys.version_info.major}.{sys.version_info.minor}"
app_file: app.py
tags: [discli, dis, state-space, diffusion, image-generation]
---

# {file.stem}

Draws {card.draws}, with a state-space diffusion model (DiS, [arXiv:2402.05608](https://arxiv.org/abs/2402.05608)).
{card.terms}.

`python app.py` serves the page on this machine; it needs `pip install 'discli[demo]'`.
`discli sample {file.name}` draws the same images without it.
"""
