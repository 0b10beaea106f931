"""What every feature network is, and how a file of weights is found and read without running any code.

A network is one file in ``features/``: nothing else names it.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from discli.evaluation.convention import Convention, find_convention
from discli.runtime.errors import DiscliError
from discli.runtime.plugins import find_plugin
from discli.runtime.signals import hold_ctrl_c

Precision = Literal["fp32", "bf16"]

FOLDER, FIRST = "evaluation/features", "inception"


class Extractor(ABC):
    """A network that turns uint8 images (B, 3, H, W) into named features, each (B, D) float32 on the CPU.

    ``features``, which all have, are what a Frechet distance compares; ``spatial`` and ``logits`` are Inception's.
    """

    name: str  # what --features calls it; a network of several sizes may then say which one it is
    network: str  # in a few words, for the score card
    weights_sha256: str
    convention: Convention | None = None  # None: takes images as they are
    input_rule: str | None = None  # how it brings images to its size, where that is no convention's
    own_teacher: bool = False  # whether what is scored was trained to have these very features
    dims: Mapping[str, int]  # D of each feature
    provides: ClassVar[tuple[str, ...]] = ("features",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)  # with others its constructor takes ``precision``
    precision: Precision = "fp32"
    smallest: ClassVar[int] = 1  # px a side, below which nothing is left to see

    @abstractmethod
    def __init__(
        self, weights: Path | None = None, convention: Convention | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """``weights`` as ``--weights`` gives them; without a ``convention``, as its published figures were made.

        Raises DiscliError for weights that are missing or another network's.
        """

    @abstractmethod
    def __call__(self, images_BCHW: Tensor) -> Mapping[str, Tensor]: ...

    @classmethod
    def check_size(cls, height: int, width: int) -> None:
        """Raises DiscliError for images that are too small for it."""
        if min(height, width) < cls.smallest:
            raise DiscliError(
                f"Images of {height}x{width} px are too small for --features {cls.name}: it needs {cls.smallest} px.",
                "Score them with --features random, which takes any size.",
            )

    def score_name(self, score: str) -> str:
        """``score`` (FID, KID, ...) on these features. It never bears the name of the one on Inception's."""
        return f"{'FD' if score == 'FID' else score} ({self.name})"


def find_network(features: str) -> type[Extractor]:
    """The class of that name. Raises DiscliError where there is none."""
    network: type[Extractor] = find_plugin(FOLDER, FIRST, "--features", features).load()
    return network


def load_extractor(
    features: str,
    weights: str | Path | None,
    convention: str | None,
    device: torch.device,
    precision: Precision = "fp32",
) -> Extractor:
    """The feature network of that name.

    Raises DiscliError where there is none, its weights are not there, or it has no such precision or no conventions.
    """
    chosen = find_convention(convention) if convention is not None else None
    network = find_network(features)
    if precision not in network.precisions:
        raise DiscliError(f"--precision {precision}: --features {features} has none but fp32.", "Leave it out.")
    if chosen is not None and network.input_rule is not None:
        raise DiscliError(
            f"--convention {chosen.name}: --features {features} has one resize of its own.",
            f"Leave --convention out: {network.input_rule}.",
        )
    how = {"precision": precision} if len(network.precisions) > 1 else {}
    return network(Path(weights) if weights is not None else None, chosen, device, **how)


def named_weights(given: Path | None, variable: str, file_name: str, url: str) -> Path | None:
    """``given`` (``--weights``) or what the environment variable says: a file, or the folder that holds it.

    None where neither is set; DiscliError where one is and nothing is there.
    """
    named = given or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if named is None or named.is_file():
        return named
    if (named / file_name).is_file():
        return named / file_name
    source = "--weights" if given else f"${variable}"
    raise DiscliError(f"{source} {named}: no such file.", f"Download {url} and give its path.")


def hub_cache(file_name: str) -> Path:
    """Where torch.hub, and so torch-fidelity, keeps a file: $TORCH_HOME/hub/checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name


@hold_ctrl_c()
def read_state_dict(path: Path, key: str, what: str, url: str) -> tuple[dict[str, Tensor], str]:
    """The tensors, and the sha256 of the file. Only tensors are unpickled, never code.

    Raises DiscliError for what cannot be read, or lacks ``key`` and so is not ``what``.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load's errors run over many lines and types
        raise DiscliError(
            f"{path} cannot be read as weights ({type(error).__name__}).", f"Download {url} again."
        ) from error
    if not isinstance(state, dict) or key not in state:
        raise DiscliError(f"{path} does not hold {what}.", f"Give {url}")
    with path.open("rb") as file:
        return state, hashlib.file_digest(file, "sha256").hexdigest()
