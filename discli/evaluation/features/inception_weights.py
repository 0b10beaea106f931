"""Where the weights of FID's Inception come from: a file, torch-fidelity's cache, or its download."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from torch import Tensor

from discli.evaluation.features.weights_file import hub_cache, named_weights, read_state_dict
from discli.runtime.errors import DiscliError

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
VARIABLE = "DISCLI_INCEPTION_WEIGHTS"

SHA256_PREFIX = "6726825d"  # the publisher writes it into the name, as torch.hub does
_SECONDS_TO_ANSWER = 10


def find_inception_weights(given: Path | None = None) -> Path:
    """The file: ``given`` (``--weights``), $DISCLI_INCEPTION_WEIGHTS, torch.hub's cache, or a download into it.

    The cache is torch-fidelity's own, so one download serves both. With HF_HUB_OFFLINE=1 nothing is
    downloaded. Raises DiscliError, naming both ways out, where the weights cannot be had.
    """
    path = inception_weights_path(given)
    if not path.is_file():
        _download(path)
    return path


def inception_weights_path(given: Path | None = None) -> Path:
    """Where that file is, or will be once it is downloaded. DiscliError where one is named that is not there."""
    return named_weights(given, VARIABLE, FILE_NAME, URL) or hub_cache(FILE_NAME)


def read_inception_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict, and the sha256 of the file."""
    what = "FID's Inception (torchvision's Inception is another network)"
    return read_state_dict(path, "Mixed_7c.branch_pool.conv.weight", what, URL)


def _download(target: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise inception_unavailable(target, "HF_HUB_OFFLINE=1 forbids downloading")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{FILE_NAME}.")
    try:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as file, urllib.request.urlopen(URL, timeout=_SECONDS_TO_ANSWER) as answer:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if not digest.hexdigest().startswith(SHA256_PREFIX):
            raise inception_unavailable(target, "the download does not have the published hash")
        Path(name).rename(target)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise inception_unavailable(target, f"the download failed: {' '.join(str(reason).split())}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def inception_unavailable(target: Path, why: str) -> DiscliError:
    """What is to be said, with every way out, where the weights cannot be had."""
    return DiscliError(
        f"Inception's weights, {FILE_NAME}, are not here and cannot be had ({why}).",
        f"Download {URL} elsewhere and put it at {target}, or name it with --weights PATH or {VARIABLE};"
        " or score with --features random, which needs no download.",
    )
