"""What is downloaded once and then needed: networks that score, and the default autoencoder."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from discli.data.autoencoders.codec import DEFAULT_VAE
from discli.data.autoencoders.hub import WEIGHTS, cached, hub_answers
from discli.doctor.finding import Checks, Finding, Setting
from discli.evaluation.features.dinov2 import find_dinov2_weights, read_dinov2_weights
from discli.evaluation.features.inception import (
    SHA256_PREFIX,
    URL,
    inception_unavailable,
    inception_weights_path,
    read_inception_weights,
)
from discli.runtime.errors import DiscliError

TITLE = "Hub and weights"

_SECONDS_TO_ANSWER = 5


def hub(setting: Setting) -> Iterator[Finding]:
    from huggingface_hub import constants

    if setting.offline:
        yield Finding("hub", "note", "not tried (--offline)")
        return
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "note", "HF_HUB_OFFLINE is set: nothing is downloaded from it")
        return
    setting.say(f"waiting for {constants.ENDPOINT}")
    start = time.monotonic()
    if hub_answers():
        yield Finding("hub", "ok", f"{constants.ENDPOINT} answers in {time.monotonic() - start:.1f} s")
    else:
        remedy = "Behind a proxy, set HTTPS_PROXY; without a network, HF_HUB_OFFLINE=1 saves the waiting."
        yield Finding("hub", "note", f"{constants.ENDPOINT} cannot be reached", remedy)


def inception(setting: Setting) -> Iterator[Finding]:
    """eval-fid needs it unless told otherwise. Training and sampling do not: missing, it is no problem."""
    name, path = "Inception", inception_weights_path()
    if path.is_file():
        _, sha256 = read_inception_weights(path)
        details = {"path": str(path), "sha256": sha256}
        if sha256.startswith(SHA256_PREFIX):
            yield Finding(name, "ok", f"{path}, sha256 {sha256[:12]}... as published", details=details)
        else:
            found = f"{path} is not the published file: its sha256 starts with {sha256[:8]}, not {SHA256_PREFIX}"
            yield Finding(name, "problem", found, f"Delete it; eval-fid downloads {URL}", details)
        return
    details = {"path": str(path)}
    why = "HF_HUB_OFFLINE=1 forbids downloading" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    if setting.offline and not why:
        found = f"not at {path}; eval-fid downloads it (about 96 MB), which --offline leaves untried"
        yield Finding(name, "note", found, details=details)
        return
    if not why:
        setting.say("waiting for GitHub")
        why = _unreachable(URL)
    if why:
        error = inception_unavailable(path, why)
        found = f"{error.message} Only eval-fid without --features random needs them."
        yield Finding(name, "note", found, error.hint, details)
        return
    yield Finding(name, "note", f"not at {path} yet; the first eval-fid downloads it (about 96 MB)", details=details)


def dinov2(setting: Setting) -> Iterator[Finding]:
    """For --features dinov2 only, so that nothing about it is a problem."""
    try:
        path = find_dinov2_weights()
        setting.say(f"reading {path}")
        _, sha256 = read_dinov2_weights(path)
    except DiscliError as error:
        yield Finding("DINOv2", "note", f"{error.message} Only --features dinov2 needs them.", error.hint)
        return
    details = {"path": str(path), "sha256": sha256}
    yield Finding("DINOv2", "ok", f"{path}, readable, sha256 {sha256[:12]}...", details=details)


def autoencoder(setting: Setting) -> Iterator[Finding]:
    """For data of more than 64 px, which is encoded to latents."""
    folder = cached(DEFAULT_VAE)
    if folder is None:
        found = f"{DEFAULT_VAE} is not in the hub's cache; encoding above 64 px downloads it (about 335 MB)"
        yield Finding("autoencoder", "note", found, details={"folder": None})
        return
    details = {"folder": str(folder)}
    if error := _unreadable(folder / WEIGHTS[0]):
        found = f"{DEFAULT_VAE} in {folder} is damaged: {error}"
        remedy = f"hf download {DEFAULT_VAE} {WEIGHTS[0]} --force-download"
        yield Finding("autoencoder", "note", found, remedy, details)
    else:
        yield Finding("autoencoder", "ok", f"{DEFAULT_VAE} in {folder}", details=details)


CHECKS: Checks = {"hub": hub, "Inception": inception, "DINOv2": dinov2, "autoencoder": autoencoder}


def _unreachable(url: str) -> str:
    """Why the file at ``url`` cannot be fetched, "" if it can."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER).close()
    except (urllib.error.URLError, OSError) as error:
        return f"{URL.split('/')[2]} cannot be reached: {' '.join(str(getattr(error, 'reason', error)).split())}"
    return ""


def _unreadable(file: Path) -> str:
    """What is wrong with a safetensors file, by its header and length; "" if nothing is, or it is another format."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return ""
    try:
        with safe_open(file, "pt"):
            return ""
    except (SafetensorError, OSError) as error:
        return " ".join(str(error).split())
