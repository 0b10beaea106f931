"""A score as ``discli eval-fid --json`` wrote it, read back for those who compare, publish or show it."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from discli.recipe.spec import PositiveInt
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json

Result = dict[str, Any]


class _Part(BaseModel):
    """What readers rely on; whatever else there is stays."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Named(_Part):
    name: str


class _Samples(_Part):
    path: str
    kind: str
    n: PositiveInt
    resolution: tuple[PositiveInt, PositiveInt]
    sampler: _Named = _Named(name="unknown")  # this and the next are those of samples with a manifest
    ema: _Named = _Named(name="unknown")


class _Reference(_Part):
    path: str
    sha256: str | None
    n: PositiveInt | None


class _EffectOfN(_Part):
    n: PositiveInt
    level: float
    low: float
    high: float
    infinity: float


class _Score(_Part):
    features: str
    weights_sha256: str
    scores: dict[str, float]
    distance: float | None
    effect_of_n: _EffectOfN | None
    convention: _Named | None
    samples: _Samples
    reference: _Reference

    @model_validator(mode="after")
    def _distance_is_a_score(self) -> Self:
        if self.distance is not None and self.distance not in self.scores.values():
            raise ValueError("distance is none of scores")
        return self


def read_score(path: Path) -> Result:
    """All of the file. Raises DiscliError for anything else than a score."""
    remedy = "Make it: discli eval-fid ... --json > a.json"
    try:
        result: Result = read_json(path)
    except OSError as error:
        raise DiscliError(f"{path}: {error.strerror}.", remedy) from None
    except ValueError as error:
        raise DiscliError(f"{path} cannot be read as JSON ({error}).", remedy) from None
    try:
        _Score.model_validate(result)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DiscliError(f"{path} is no result of eval-fid{f' ({where})' if where else ''}.", remedy) from None
    return result
