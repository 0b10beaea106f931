"""Weights that are missing, damaged or another network's."""

import pytest
import torch
from huggingface_hub import constants

from discli.data.autoencoders.codec import DEFAULT_VAE
from discli.doctor import weights
from discli.doctor.finding import Setting, guarded
from discli.evaluation.features import dinov2, inception
from tests.data.autoencoders.autoencoders import save_kl


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.delenv(dinov2.VARIABLE, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _one(name: str):
    (finding,) = guarded(name, lambda: weights.CHECKS[name](Setting(offline=True)))
    return finding


def test_missing_inception_is_a_note_whether_or_not_it_can_be_downloaded(checkpoints, monkeypatch):
    note = _one("Inception")
    assert note.verdict == "note"
    assert str(checkpoints) in note.found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = _one("Inception")
    assert offline.verdict == "note"
    assert "HF_HUB_OFFLINE=1" in offline.found
    assert str(checkpoints) in offline.remedy


def test_a_host_that_refuses_is_told(checkpoints, monkeypatch):
    monkeypatch.setattr(weights, "URL", "http://127.0.0.1:9/weights.pth")
    (finding,) = guarded("Inception", lambda: weights.inception(Setting()))
    assert finding.verdict == "note"
    assert "127.0.0.1:9 cannot be reached: " in finding.found


def test_inception_of_other_content_is_a_problem(checkpoints):
    file = checkpoints / inception.FILE_NAME
    file.write_bytes(b"an error page")
    assert (_one("Inception").verdict, "cannot be read as weights" in _one("Inception").found) == ("problem", True)
    torch.save({"fc.weight": torch.zeros(2)}, file)
    assert "does not hold FID's Inception" in _one("Inception").found
    torch.save({"Mixed_7c.branch_pool.conv.weight": torch.zeros(2)}, file)
    finding = _one("Inception")
    assert finding.verdict == "problem"
    assert "sha256 starts with" in finding.found
    assert inception.SHA256_PREFIX in finding.found
    assert finding.details["sha256"][:8] in finding.found


def test_the_published_file_is_ok(checkpoints, monkeypatch):
    file = checkpoints / inception.FILE_NAME
    torch.save({"Mixed_7c.branch_pool.conv.weight": torch.zeros(2)}, file)
    monkeypatch.setattr(weights, "SHA256_PREFIX", _one("Inception").details["sha256"][:8])
    assert _one("Inception").verdict == "ok"


def test_a_variable_that_names_nothing_is_a_problem(checkpoints, monkeypatch):
    monkeypatch.setenv(inception.VARIABLE, str(checkpoints / "gone.pth"))
    assert _one("Inception").verdict == "problem"
    assert "gone.pth: no such file" in _one("Inception").found


def test_dinov2_is_never_more_than_a_note(checkpoints):
    assert _one("DINOv2").verdict == "note"
    (checkpoints / dinov2.FILE_NAME).write_bytes(b"half of it")
    assert (_one("DINOv2").verdict, "cannot be read" in _one("DINOv2").found) == ("note", True)
    torch.save({"blocks.0.ls1.gamma": torch.zeros(2)}, checkpoints / dinov2.FILE_NAME)
    assert _one("DINOv2").verdict == "ok"


def test_the_default_autoencoder_absent_whole_and_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert _one("autoencoder").verdict == "note"
    repository = tmp_path / f"models--{DEFAULT_VAE.replace('/', '--')}"
    snapshot = save_kl(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert (_one("autoencoder").verdict, _one("autoencoder").details["folder"]) == ("ok", str(snapshot))
    file = snapshot / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert (_one("autoencoder").verdict, "damaged" in _one("autoencoder").found) == ("note", True)
