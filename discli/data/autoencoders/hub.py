"""Where an autoencoder's files are: a folder, the hub's local cache, or the hub."""

import json
from pathlib import Path
from typing import Any

from discli.runtime.errors import DiscliError

DEFAULT_VAE = "stabilityai/sd-vae-ft-ema"
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

_SUBFOLDERS = ("", "vae/")  # an autoencoder of its own, or part of a pipeline
_SECONDS_TO_ANSWER = 5.0


def fetch(vae: str) -> Path:
    """The local folder with config and weights of ``vae``, a folder or a hub id; downloads what is missing.

    Raises DiscliError where there is no such folder, or neither a cached copy nor a hub within reach.
    The hub's own client would try for 23 seconds first.
    """
    folder = Path(vae)
    if folder.is_dir():
        for sub in _SUBFOLDERS:
            if (folder / sub / CONFIG).is_file():
                return folder / sub
        raise DiscliError(f"{vae} holds no {CONFIG}.", "Give the folder that a diffusers autoencoder was saved to.")
    if folder.is_absolute() or vae.startswith(".") or vae.count("/") != 1:
        raise DiscliError(f"There is no folder {vae}.", "Give a folder, or a hub id like stabilityai/sd-vae-ft-ema.")
    found = cached(vae)
    return found if found is not None else _download(vae)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it is. Raises DiscliError where it cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DiscliError(f"{folder / CONFIG} cannot be read: {error}.", "Fetch the folder again.") from None
    return config if isinstance(config, dict) else {}


def cached(repo: str) -> Path | None:
    """The folder with config and weights in the hub's local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    for sub in _SUBFOLDERS:
        config = try_to_load_from_cache(repo, sub + CONFIG)
        if isinstance(config, str) and any(isinstance(try_to_load_from_cache(repo, sub + w), str) for w in WEIGHTS):
            return Path(config).parent
    return None


def _download(repo: str) -> Path:
    from huggingface_hub import constants, errors, file_exists, hf_hub_download

    if constants.HF_HUB_OFFLINE or not hub_answers():
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        here = repo.split("/")[-1]
        raise DiscliError(
            f"{repo} is not in the local cache, and {why}.",
            f"Where there is a network: hf download {repo} {CONFIG} {WEIGHTS[0]} --local-dir {here};"
            f" copy the folder {here} over and give it: --vae {here}",
        )
    try:
        for sub in _SUBFOLDERS:
            for weights in WEIGHTS:
                if file_exists(repo, sub + weights):
                    hf_hub_download(repo, sub + weights)
                    return Path(hf_hub_download(repo, sub + CONFIG)).parent
    except errors.GatedRepoError:
        raise DiscliError(f"{repo} is gated.", f"Accept its terms at hf.co/{repo}, then: hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise DiscliError(f"The hub has no {repo}.", "Check the id; a private one needs: hf auth login") from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiscliError(f"Downloading {repo} failed: {reason}", "Run the same command again: it resumes.") from None
    raise DiscliError(f"{repo} holds no diffusers autoencoder ({WEIGHTS[0]}).", "Check the id.")


def hub_answers() -> bool:
    """Whether the hub is within reach, in seconds rather than after its client's many tries."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS_TO_ANSWER)
    except Exception:  # requests' errors in one version of the client, httpx's in another
        return False
    return True
