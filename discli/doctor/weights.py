"""What is downloaded once and then needed: networks that score, and the default autoencoder."""

import urllib.error
import urllib.request
from collections.abc import Iterator

from discli.data.autoencoders.hub import DEFAULT_VAE, WEIGHTS, cached
from discli.data.features.efficientnet_lite0 import NAME, SHA256, find_weights, read_weights
from discli.doctor.finding import Check, CheckContext, Finding, announce, error, ok, warning
from discli.evaluation.features import cifar10 as classifier
from discli.evaluation.features.inception import (
    SHA256_PREFIX,
    URL,
    inception_weights_path,
    read_inception_weights,
)
from discli.runs.box import BOX, VARIABLE, model_folders
from discli.runs.models import is_as_published, list_models
from discli.runtime.errors import DiscliError

TITLE = "Network and weights"

_SECONDS_TO_ANSWER = 5


def network(context: CheckContext) -> Iterator[Finding]:
    """The two hosts that weights come from."""
    from huggingface_hub import constants

    for name, url in (("hub", constants.ENDPOINT), ("GitHub", URL)):
        host = url.split("/")[2]
        if context.offline or constants.HF_HUB_OFFLINE:
            why = "--offline" if context.offline else "HF_HUB_OFFLINE is set, so nothing is downloaded"
            yield ok(name, f"{host} not tried: {why}", reachable=None)
        elif why := _unreachable(url):
            fix = "Behind a proxy, set HTTPS_PROXY; without a network, set HF_HUB_OFFLINE=1 to save the waiting."
            yield warning(name, f"{host} cannot be reached: {why}", fix, reachable=False)
        else:
            yield ok(name, f"{host} answers", reachable=True)


def inception(context: CheckContext) -> Iterator[Finding]:
    """eval-fid needs it without --features random; training and sampling do not."""
    name, path = "Inception", inception_weights_path()
    if not path.is_file():
        found = f"not at {path} yet; eval-fid downloads it (96 MB)"
        fix = f"Without a network, put {URL} there, or score with --features cifar10, random or efficientnet-lite0."
        yield warning(name, found, fix, path=str(path))
        return
    _, sha256 = read_inception_weights(path)
    if sha256.startswith(SHA256_PREFIX):
        yield ok(name, f"{path}, sha256 {sha256[:12]}... as published", path=str(path), sha256=sha256)
    else:
        found = f"{path} is not the published file: its sha256 starts with {sha256[:8]}, not {SHA256_PREFIX}"
        yield error(name, found, f"Delete it; eval-fid downloads {URL}", path=str(path), sha256=sha256)


def cifar10(context: CheckContext) -> Iterator[Finding]:
    """Comes with the package, for eval-fid --features cifar10."""
    name, again = "CIFAR-10", "Install discli again: pip install --force-reinstall --no-deps discli"
    try:
        _, sha256 = classifier.read_classifier(classifier.WEIGHTS)
    except DiscliError as damaged:
        yield error(name, damaged.message.removeprefix("--weights "), again, path=str(classifier.WEIGHTS))
        return
    details = {"path": str(classifier.WEIGHTS), "sha256": sha256}
    if sha256 == classifier.SHA256:
        yield ok(name, f"the classifier that comes with discli, sha256 {sha256[:12]}... as released", **details)
    else:
        found = f"{classifier.WEIGHTS} is not as released: its sha256 begins {sha256[:8]}, not {classifier.SHA256[:8]}"
        yield error(name, found, again, **details)


def efficientnet(context: CheckContext) -> Iterator[Finding]:
    """For eval-fid --features efficientnet-lite0 and alignment; nothing else needs it."""
    name = "EfficientNet-Lite0"
    try:
        path = find_weights()
    except DiscliError as missing:
        yield ok(name, f"not installed, and needed by --features {NAME} alone: {missing.hint}", installed=False)
        return
    try:
        read_weights(path)
    except DiscliError as damaged:
        yield warning(name, damaged.message, damaged.hint, path=str(path))
    else:
        yield ok(name, f"{path}, sha256 {SHA256[:12]}... as published", path=str(path), sha256=SHA256)


def autoencoder(context: CheckContext) -> Iterator[Finding]:
    """For images of more than 64 px, which are encoded to latents."""
    from safetensors import SafetensorError, safe_open

    name, folder = "autoencoder", cached(DEFAULT_VAE)
    download = f"hf download {DEFAULT_VAE} {WEIGHTS[0]} --force-download"
    if folder is None:
        found = f"{DEFAULT_VAE} is not in the hub's cache yet; encode above 64 px downloads it (335 MB)"
        yield warning(name, found, f"To have it now: {download.removesuffix(' --force-download')} config.json")
        return
    try:
        if (folder / WEIGHTS[0]).is_file():
            with safe_open(folder / WEIGHTS[0], "pt"):
                pass
        yield ok(name, f"{DEFAULT_VAE} in {folder}", folder=str(folder))
    except (SafetensorError, OSError) as raised:
        yield warning(name, f"{DEFAULT_VAE} in {folder} is corrupt: {raised}", download, folder=str(folder))


def models(context: CheckContext) -> Iterator[Finding]:
    """Those in the box, and those in the folders of DISCLI_MODELS."""
    good = []
    for model in list_models():
        name, ours = f"model {model.name}", model.file.parent == BOX
        fix = "pip install --force-reinstall --no-deps discli" if ours else "Copy it again from where it was made."
        wrong = model.problem
        if wrong is None and model.card is not None and not is_as_published(model.file, model.card):
            wrong = f"{model.file} is not the file that its card is about: its sha256 differs"
        if wrong is None:
            good.append(model.name)
        else:
            yield (error if ours else warning)(name, wrong, fix, path=str(model.file))
    yield ok("models", ", ".join(good) or "none", models=good)
    for folder in model_folders():
        if not folder.is_dir():
            yield warning("models", f"{VARIABLE} names {folder}, which is no folder", "Correct the variable.")


CHECKS: dict[str, Check] = {
    "models": models,
    "network": network,
    "Inception": inception,
    "CIFAR-10": cifar10,
    "EfficientNet-Lite0": efficientnet,
    "autoencoder": autoencoder,
}


def _unreachable(url: str) -> str:
    """Why the host of ``url`` does not answer, "" if it does."""
    announce(url.split("/")[2])
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        return ""  # an answer all the same
    except OSError as raised:
        return " ".join(str(getattr(raised, "reason", raised)).split())
    return ""
