"""FID's Inception at full size with random weights: the same numbers as torch-fidelity's own network."""

from pathlib import Path

import pytest
import torch

from discli.evaluation.convention import CONVENTIONS, find_convention
from discli.evaluation.extractor import load_extractor
from discli.evaluation.features import inception
from discli.evaluation.features.inception import (
    FILE_NAME,
    VARIABLE,
    Inception,
    bare_inception,
    find_inception_weights,
    read_inception_weights,
)
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images


@pytest.fixture(scope="module")
def network():
    """torch-fidelity's network, scaled so that activations keep their size, with batch norms that do something."""
    torch.manual_seed(0)
    network = bare_inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@torch.inference_mode()
def test_features_equal_torch_fidelitys_and_the_spatial_ones_are_adms(network, weights):
    images = drawn_images(4, 32, 0)
    conv = {}
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda _m, _i, out: conv.update(mixed_6=out))
    network.features_list = ["2048", "logits_unbiased"]
    pool, logits = network(images)
    hook.remove()

    found = Inception(weights)(images)
    torch.testing.assert_close(found["features"], pool, rtol=1e-3, atol=1e-4 * float(pool.std()))
    torch.testing.assert_close(found["logits"], logits, rtol=1e-3, atol=1e-4 * float(logits.std()))
    # ADM flattens (17, 17, 7), channels last, of the first seven channels.
    spatial = conv["mixed_6"].permute(0, 2, 3, 1)[..., :7].reshape(4, -1)
    assert spatial.shape == (4, 2023)
    torch.testing.assert_close(found["spatial"], spatial, rtol=1e-3, atol=1e-4 * float(spatial.std()))
    assert {name: rows.shape[1] for name, rows in found.items()} == Inception.dims


def test_conventions_are_known_by_name():
    assert set(CONVENTIONS) == {"torch-fidelity", "adm", "clean-fid"}
    with pytest.raises(DiscliError, match="no such convention"):
        find_convention("pytorch-fid")


def test_missing_weights_name_the_file_its_place_and_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DiscliError) as raised:
        find_inception_weights()
    assert "weights-inception-2015-12-05-6726825d.pth" in raised.value.message
    assert str(tmp_path / "hub" / "checkpoints" / FILE_NAME) in raised.value.hint
    assert "--weights" in raised.value.hint
    assert VARIABLE in raised.value.hint
    assert "--features cifar10" in raised.value.hint


def test_a_download_that_is_not_the_published_file_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "served").write_bytes(b"something else")
    monkeypatch.setattr(inception, "URL", (tmp_path / "served").as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(DiscliError, match="does not have the published hash"):
        find_inception_weights()
    (tmp_path / "served").unlink()
    with pytest.raises(DiscliError, match="the download failed"):
        find_inception_weights()
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_weights_are_found_by_flag_variable_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / FILE_NAME
    cached.parent.mkdir(parents=True)
    named, variable = tmp_path / "named.pth", tmp_path / "variable.pth"
    for path in (cached, named, variable):
        path.touch()
    assert find_inception_weights() == cached
    monkeypatch.setenv(VARIABLE, str(variable))
    assert find_inception_weights() == variable
    assert find_inception_weights(named) == named
    assert find_inception_weights(cached.parent) == cached
    with pytest.raises(DiscliError, match=r"--weights .*elsewhere: no such file"):
        find_inception_weights(tmp_path / "elsewhere")


class Sneaky:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_weights_files_that_would_run_code_or_hold_something_else_are_refused(tmp_path):
    evil, witness = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"x": Sneaky(witness)}, evil)
    with pytest.raises(DiscliError, match="cannot be read as weights"):
        read_inception_weights(evil)
    assert not witness.exists()

    other = tmp_path / "other.pth"
    torch.save({"Mixed_7c.branch3x3.weight": torch.zeros(1)}, other)
    with pytest.raises(DiscliError, match="does not hold FID's Inception"):
        read_inception_weights(other)


def test_weights_of_another_shape_are_refused(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    state["fc.weight"] = state["fc.weight"][:1000]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(DiscliError, match="does not fit FID's Inception"):
        Inception(tmp_path / "cut.pth")


@pytest.mark.slow  # where bf16 products are emulated
def test_bf16_is_near_is_said_and_is_not_mixed_with_fp32(weights):
    images = drawn_images(4, 32, 0)
    exact, rounded = Inception(weights), Inception(weights, precision="bf16")
    assert (exact.precision, rounded.precision) == ("fp32", "bf16")
    assert "bf16" in rounded.network
    assert "bf16" not in exact.network
    for name, rows in exact(images).items():
        other = rounded(images)[name]
        assert other.dtype == torch.float32
        assert 0 < float((other - rows).norm() / rows.norm()) < 0.05


def test_a_precision_that_a_network_lacks_is_refused():
    with pytest.raises(DiscliError, match="--precision bf16"):
        load_extractor("random", None, None, torch.device("cpu"), "bf16")


@pytest.mark.parametrize(("weights", "convention"), [(Path("mine.pth"), None), (None, "adm")])
def test_weights_and_conventions_that_random_features_lack_are_refused(weights, convention):
    with pytest.raises(DiscliError, match="--features random has its own"):
        load_extractor("random", weights, convention, torch.device("cpu"))
