"""Weights that are missing, corrupt or another network's."""

import pytest
import torch
from huggingface_hub import constants

from discli.data.autoencoders.hub import DEFAULT_VAE
from discli.data.features import efficientnet_lite0
from discli.doctor import weights
from discli.doctor.finding import CheckContext, guarded
from discli.evaluation.features import cifar10, inception
from tests.data.autoencoders.autoencoders import save_kl


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _one(name: str):
    (finding,) = guarded(name, lambda: weights.CHECKS[name](CheckContext(offline=True)))
    return finding


def test_missing_inception_is_a_warning_with_both_ways_out(checkpoints):
    finding = _one("Inception")
    assert finding.verdict == "warning"
    assert str(checkpoints) in finding.found
    assert weights.URL in finding.fix
    assert "--features cifar10" in finding.fix


def test_a_host_that_refuses_is_told(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights, "URL", "http://127.0.0.1:9/weights.pth")
    for finding in weights.network(CheckContext()):
        assert (finding.verdict, finding.details["reachable"]) == ("warning", False)
        assert "127.0.0.1:9 cannot be reached: " in finding.found


def test_inception_of_other_content_is_a_problem(checkpoints):
    file = checkpoints / inception.FILE_NAME
    file.write_bytes(b"an error page")
    assert (_one("Inception").verdict, "cannot be read as weights" in _one("Inception").found) == ("error", True)
    torch.save({"fc.weight": torch.zeros(2)}, file)
    assert "does not hold FID's Inception" in _one("Inception").found
    torch.save({"Mixed_7c.branch_pool.conv.weight": torch.zeros(2)}, file)
    finding = _one("Inception")
    assert finding.verdict == "error"
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
    assert _one("Inception").verdict == "error"
    assert "gone.pth: no such file" in _one("Inception").found


def test_the_default_autoencoder_absent_whole_and_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert _one("autoencoder").verdict == "warning"
    repository = tmp_path / f"models--{DEFAULT_VAE.replace('/', '--')}"
    snapshot = save_kl(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert (_one("autoencoder").verdict, _one("autoencoder").details["folder"]) == ("ok", str(snapshot))
    file = snapshot / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert (_one("autoencoder").verdict, "corrupt" in _one("autoencoder").found) == ("warning", True)


def test_the_classifier_that_comes_with_discli_is_as_released(tmp_path, monkeypatch):
    assert _one("CIFAR-10").verdict == "ok"
    whole = cifar10.WEIGHTS.read_bytes()
    other = tmp_path / "cifar10.safetensors"
    monkeypatch.setattr(cifar10, "WEIGHTS", other)
    for content in (whole[:-2] + b"\0\1", whole[:1000], None):  # another number, cut short, gone
        other.unlink(missing_ok=True)
        if content is not None:
            other.write_bytes(content)
        finding = _one("CIFAR-10")
        assert finding.verdict == "error"
        assert "cifar10.safetensors" in finding.found
        assert "pip install" in finding.fix


def test_efficientnet_is_optional_and_only_the_published_file_is_right(tmp_path, monkeypatch):
    monkeypatch.delenv(efficientnet_lite0.VARIABLE, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet_lite0.importlib.util, "find_spec", lambda name: None)
        missing = _one("EfficientNet-Lite0")
    assert (missing.verdict, missing.details["installed"]) == ("ok", False)
    assert "discli[features]" in missing.found
    other = tmp_path / efficientnet_lite0.FILE_NAME
    other.write_bytes(b"an error page")
    monkeypatch.setenv(efficientnet_lite0.VARIABLE, str(other))
    assert _one("EfficientNet-Lite0").verdict == "warning"
