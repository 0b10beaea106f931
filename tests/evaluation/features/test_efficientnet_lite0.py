"""EfficientNet-Lite0 as a feature network: its name, its rule, and values that do not depend on company."""

import pytest
import torch

from discli.data.features import efficientnet_lite0 as lite
from discli.evaluation.evaluate import evaluate, make_ref
from discli.evaluation.extractor import load_extractor
from discli.evaluation.features.efficientnet_lite0 import EFFICIENTNET_FD, EfficientNetLite0Features
from discli.evaluation.features.inception import inception_unavailable
from discli.evaluation.npz import read_statistics
from discli.evaluation.parallel import in_small_batches
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images
from tests.evaluation.test_evaluate import save_folder


@pytest.fixture(scope="module")
def network():
    pytest.importorskip(lite.PACKAGE)
    return EfficientNetLite0Features()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))


def test_an_image_has_the_same_features_whatever_stands_beside_it(network):
    images = drawn_images(19, 16, 0)
    together = network(images)["features"]
    alone = torch.cat([network(image[None])["features"] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.testing.assert_close(network(images)["features"], together, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_scores_bear_its_name_and_the_record_its_rule(network, tmp_path):
    folders = [save_folder(tmp_path / name, drawn_images(12, 16, seed)) for seed, name in enumerate("ab")]
    result = evaluate(*folders, features="efficientnet-lite0", bootstrap=0)
    assert list(result.scores) == [EFFICIENTNET_FD] == ["FD (EfficientNet-Lite0), not FID"]
    assert result.convention is None
    assert lite.INPUT_RULE in result.network
    assert result.weights_sha256 == lite.SHA256
    made = make_ref(folders[1], tmp_path / "ref.npz", features="efficientnet-lite0")
    assert read_statistics(made).about["resize"] == lite.INPUT_RULE
    again = evaluate(folders[0], made, features="efficientnet-lite0", bootstrap=0, batch_size=5)
    assert again.distance == pytest.approx(result.distance, rel=1e-3)
    with pytest.raises(DiscliError, match="was made with"):
        evaluate(folders[0], made, features="random")


def test_it_has_one_resize_of_its_own(network):
    with pytest.raises(DiscliError, match="one resize of its own"):
        load_extractor("efficientnet-lite0", None, "adm", torch.device("cpu"))


def test_bad_input_is_two_lines_and_status_2(network, tmp_path, monkeypatch):
    small = save_folder(tmp_path / "small", drawn_images(4, 12, 0))
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    cases = [
        ({}, "too small"),
        ({"weights": other}, "not EfficientNet"),
        ({"weights": tmp_path / "no"}, "no such file"),
    ]
    for given, said in cases:
        with pytest.raises(DiscliError, match=said) as raised:
            evaluate(small, small, features="efficientnet-lite0", **given)
        assert raised.value.status == 2
        assert raised.value.hint
    monkeypatch.setattr(lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DiscliError, match="not installed"):
        evaluate(small, small, features="efficientnet-lite0")


def test_in_bf16_features_are_near_and_recorded_as_such(network):
    half = EfficientNetLite0Features(precision="bf16")
    images = drawn_images(9, 32, 0)
    one, other = network(images)["features"], half(images)["features"]
    assert other.dtype == torch.float32
    assert 0 < (one - other).norm() / one.norm() < 0.1
    assert "bf16" in half.network


def test_where_inceptions_weights_are_missing_it_is_named(tmp_path):
    assert "--features efficientnet-lite0" in inception_unavailable(tmp_path / "w.pth", "offline").hint


def test_threads_meet_an_error_once(network):
    with pytest.raises(DiscliError, match="too small"):
        network(drawn_images(40, 8, 0))
    assert in_small_batches(lambda x: {"n": torch.ones(len(x))}, drawn_images(9, 8, 0), torch.device("cpu"))
