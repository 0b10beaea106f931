"""``result.json`` of a study's trial, as far as plans and reports rely on it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from discli.recipe.spec import Count, Positive, PositiveInt, Real
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Named(_Part):
    name: str


class _Scored(_Part):
    step: Count
    score: Real
    n: PositiveInt


class _Samples(_Part):
    n: PositiveInt
    sampler: _Named
    steps: PositiveInt
    nfe: PositiveInt
    cfg_scale: Real
    seed: Count


class _Reference(_Part):
    path: str
    n: PositiveInt
    sha256: str


class _Eval(_Part):
    features: str
    network: str
    weights_sha256: str
    samples: _Samples
    reference: _Reference


class _Result(_Part):
    trial: str
    point: str
    seed: Count
    settings: dict[str, Any]
    recipe: dict[str, Any]
    contract: dict[str, Any] = {}
    parameters: PositiveInt
    forward_gflops: Positive
    steps: PositiveInt
    images: PositiveInt
    training_tflops: Positive
    loss: Real
    seconds: Positive
    images_per_second: Positive
    peak_memory: Count
    score: Real
    score_name: str
    curve: tuple[_Scored, ...]
    eval: _Eval
    environment: dict[str, str]


def read_trial_result(path: Path) -> dict[str, Any]:
    """All of the file. Raises DiscliError where it is damaged."""
    try:
        result: dict[str, Any] = read_json(path)
        _Result.model_validate(result)
    except (OSError, ValueError) as error:
        why = ""
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            why = f" ({': '.join(['.'.join(str(part) for part in first['loc']), first['msg']])})"
        raise DiscliError(f"{path} is damaged{why}.", "Remove it: the trial is scored again from its run.") from None
    return result
