"""``manifest.json`` of a folder of samples, as far as scoring relies on it."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from discli.recipe.spec import Count, PositiveInt
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Named(_Part):
    name: str


class _Contract(_Part):
    class_names: tuple[str, ...]


class _Manifest(_Part):
    discli_version: str
    n: PositiveInt
    format: str = "png"
    classes: tuple[Count, ...] | None = None
    contract: _Contract
    data_file: str | None = None
    checkpoint: str
    step: Count
    sampler: _Named
    steps: PositiveInt
    nfe: PositiveInt
    cfg_scale: float
    ema: _Named
    precision: str
    seed: int

    @model_validator(mode="after")
    def _a_class_each(self) -> Self:
        if self.classes is not None and len(self.classes) != self.n:
            raise ValueError(f"{len(self.classes)} classes of {self.n} samples")
        return self


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What ``discli sample`` wrote beside its images; None for any other folder.

    Raises DiscliError where it is damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    remedy = "Sample again, or remove it to score plain images."
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise DiscliError(f"{path} is not JSON ({error}).", remedy) from None
    if not isinstance(manifest, dict) or "discli_version" not in manifest:
        return None
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its content"
        raise DiscliError(f"{path} is damaged: {where}: {first['msg']}.", remedy) from None
    return manifest
