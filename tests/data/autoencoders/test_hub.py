"""Without a network: quickly, in a line, with the way out."""

import time

import pytest
from huggingface_hub import constants

from discli.data.autoencoders.hub import fetch
from discli.runtime.errors import DiscliError
from tests.data.autoencoders.autoencoders import save_kl


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(repo: str) -> DiscliError:
    started = time.monotonic()
    with pytest.raises(DiscliError) as error:
        fetch(repo)
    assert time.monotonic() - started < 10, "the hub's client alone retries for 23 s"
    return error.value


def test_offline_by_choice_says_how_to_bring_the_folder(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused("stabilityai/sd-vae-ft-ema")
    assert "HF_HUB_OFFLINE is set" in error.message
    assert "hf download stabilityai/sd-vae-ft-ema config.json" in error.hint
    assert "--vae sd-vae-ft-ema" in error.hint


def test_a_hub_out_of_reach_is_noticed_without_retries(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused("stabilityai/sd-vae-ft-ema").message


def test_a_cached_copy_needs_no_network(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = empty_cache / "models--someone--vae" / "snapshots" / "abc"
    save_kl(snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    assert fetch("someone/vae") == snapshot
