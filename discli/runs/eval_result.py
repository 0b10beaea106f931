"""`EvalResult`: scores of one set of images and all that they depend on, as ``discli eval-fid --json`` writes it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from discli.recipe.seeds import Seeds
from discli.recipe.spec import Count, PositiveInt
from discli.runtime.files import read_model


class _Part(BaseModel):
    """Keys that are not known here are kept: another discli may have written them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, serialize_by_alias=True)


class _Sparse(_Part):
    """Of its fields those that have a default are written only where something is known."""

    @model_serializer(mode="wrap")
    def _known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        optional = {name for name, field in type(self).model_fields.items() if not field.is_required()}
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value is not None or key not in optional}


class Named(_Part):
    """A sampler or an average of weights: its name, and its settings as further keys."""

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return self.model_extra or {}


class Samples(_Sparse):
    """What was scored; from ``sampler`` on, what the manifest of ``discli sample`` says of the samples' making."""

    path: str
    kind: str
    n: PositiveInt
    resolution: tuple[PositiveInt, PositiveInt]  # height, width
    run: str | None = None
    checkpoint: str | None = None
    step: Count | None = None
    model_sha256: str | None = None
    sampler: Named | None = None
    steps: PositiveInt | None = None
    timestep_spacing: str | None = None
    time_shift: float | None = None
    nfe: PositiveInt | None = None
    cfg_scale: float | None = None
    guidance: Named | None = None
    cfg_schedule: Named | None = None
    cfg_interval: str | None = None  # in words
    contrastive_correction: bool | None = None
    guided_channels: str | int | None = None
    clip_denoised: bool | None = None
    ema: Named | None = None
    precision: str | None = None
    class_choice: str | None = None  # random, balanced, or which in turn
    begins_with: str | None = None  # noise, or what else, in words
    seed: int | None = None
    train_seed: Seeds | None = None


class ReferenceFacts(_Sparse):
    """What the samples were compared with. ``n`` is None where a file of statistics does not say."""

    path: str
    kind: str = "unknown"
    n_for_kid_and_prc: PositiveInt | None = None
    cached: bool | None = None
    sha256: str | None
    n: PositiveInt | None
    resolution: tuple[PositiveInt, PositiveInt] | None = None


class FidInfinity(_Part):
    """A Frechet distance at ``n`` samples, extrapolated (arXiv:1911.07023), and its bootstrap interval at ``n``."""

    n: PositiveInt
    distance: float | None = None
    infinity: float
    low: float
    high: float
    level: float
    replicates: PositiveInt | None = None


class ClassScore(_Part):
    """The Frechet distance of one class."""

    name: str = Field(alias="class")
    n: PositiveInt
    n_reference: PositiveInt
    distance: float


class Share(_Part):
    """How many of ``n`` were right, and the 95% interval of that share (Wilson, 1927)."""

    n: Count
    right: Count
    low: float
    high: float

    @property
    def share(self) -> float:
        """0 where nothing was counted."""
        return self.right / max(1, self.n)


class Mistake(_Part):
    """A class that ``n`` samples of another were taken for."""

    name: str = Field(alias="class")
    n: PositiveInt


class ClassRecognition(_Part):
    """Of the samples of one class, and of held-out real images of it, how many are recognised."""

    name: str = Field(alias="class")
    samples: Share
    held_out: Share
    mistaken_for: tuple[Mistake, ...] = ()


class Recognition(_Part):
    """How many samples a probe on the features recognises as the class asked for, beside held-out real images."""

    score: str  # its name in ``scores``
    samples: Share
    held_out: Share
    classes: tuple[ClassRecognition, ...]


class ConventionFacts(_Sparse):
    """What a named pipeline of resizing and splitting does, in words."""

    name: str
    resize: str | None = None
    quantisation: str | None = None
    inception_score: str | None = None


class EvalResult(_Part):
    """``scores`` by the names that they may be called by; ``distance`` is the one that an interval belongs to."""

    format: Literal[1] = 1
    discli_version: str = "unknown"
    features: str
    distance: float | None
    scores: dict[str, float]
    fid_infinity: FidInfinity | None = Field(alias="effect_of_n")
    per_class: tuple[ClassScore, ...] | None = None
    recognised: Recognition | None = None
    convention: ConventionFacts | None
    network: str = "unknown"
    precision: str = "fp32"  # of the network
    weights_sha256: str
    own_teacher: bool = False  # the model was trained to have these features, so that the score flatters it
    samples: Samples
    reference: ReferenceFacts
    warnings: tuple[str, ...] = ()
    torch_version: str = "unknown"
    device: str = "unknown"
    processes: PositiveInt = 1
    seconds: float = 0.0

    @model_validator(mode="after")
    def _distance_is_a_score(self) -> Self:
        if self.distance is not None and self.distance not in self.scores.values():
            raise ValueError("distance is none of scores")
        return self


def read_eval_result(path: str | Path) -> EvalResult:
    """Raises DiscliError for anything else than the JSON of an `EvalResult`."""
    return read_model(Path(path), EvalResult, "Make it: discli eval-fid ... --json > a.json")
