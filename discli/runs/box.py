"""Models by name: trained weights that come with discli, and those in the folders that `VARIABLE` lists.

A model is one file NAME.safetensors with its recipe in the header, and beside it NAME.card.json, its `ModelCard`.
Imports nothing that takes time: `discli.runs.layout.find_run` asks it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "DISCLI_MODELS"
BOX = Path(__file__).resolve().parents[1] / "assets" / "models"


def model_folders() -> list[Path]:
    """In the order in which names are looked up: the folders of `VARIABLE`, as PATH lists them, then the box."""
    named = (os.environ.get(VARIABLE) or "").split(os.pathsep)
    return [*(Path(folder) for folder in named if folder), BOX]


def model_files() -> Iterator[tuple[str, Path]]:
    """(name, file) of every model. Of several with one name the first is meant, and hides the others."""
    for folder in model_folders():
        try:
            found = sorted(path for path in folder.glob("[!.]*.safetensors") if path.is_file())
        except OSError:  # may not be read: as a folder that is not there
            continue
        yield from ((path.stem, path) for path in found)


def find_model(name: str) -> Path | None:
    """The weights that a model's name stands for."""
    return next((path for known, path in model_files() if known == name), None)
