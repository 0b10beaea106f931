"""Packages that are broken in the ways that real installations are, to be found before the real ones."""

from pathlib import Path

WRONG_INDEX = 'raise RuntimeError("operator torchvision::nms does not exist")'
DEADLY = "import os; os.abort()"


def write_module(folder: Path, dotted: str, code: str, version: str = "9.9") -> Path:
    """The module with its packages, all of ``version``, in ``folder``, which belongs on the path."""
    *packages, name = dotted.split(".")
    at = folder
    for package in packages:
        at = at / package
        at.mkdir(parents=True, exist_ok=True)
        (at / "__init__.py").write_text(f"__version__ = {version!r}\n")
    at.mkdir(parents=True, exist_ok=True)
    (at / f"{name}.py").write_text(f"__version__ = {version!r}\n{code}\n")
    return folder
