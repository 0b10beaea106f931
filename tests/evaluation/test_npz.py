"""Statistics and image batches in .npz: ours, ADM's, and broken ones."""

import zipfile

import numpy as np
import pytest
import torch

from discli.evaluation.moments import Moments
from discli.evaluation.npz import (
    NpzImages,
    ReferenceStatistics,
    holds_images,
    read_statistics,
    write_statistics,
)
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images, gaussian_rows


def some_gaussian(dim=5):
    moments = Moments(dim)
    moments.update(gaussian_rows(20, dim, 0))
    return moments.gaussian()


def test_what_is_written_is_read_back_exactly(tmp_path):
    path, gaussian = tmp_path / "ref.npz", some_gaussian()
    write_statistics(path, ReferenceStatistics({"features": gaussian}, {"features": "random", "resolution": [8, 8]}))
    found = read_statistics(path)
    assert found.about == {"features": "random", "resolution": [8, 8]}
    assert found.gaussians["features"].n == 20
    assert torch.equal(found.gaussians["features"].covariance, gaussian.covariance)
    assert [p.name for p in tmp_path.iterdir()] == ["ref.npz"]
    assert not holds_images(path)


def test_adms_reference_batch_has_statistics_of_both_layers_and_images(tmp_path):
    path = tmp_path / "VIRTUAL.npz"
    pool, spatial = some_gaussian(6), some_gaussian(4)
    images = drawn_images(7, 8, 0).permute(0, 2, 3, 1).numpy()
    np.savez(
        path,
        arr_0=images,
        mu=pool.mean.numpy(),
        sigma=pool.covariance.numpy(),
        mu_s=spatial.mean.numpy(),
        sigma_s=spatial.covariance.numpy(),
    )
    found = read_statistics(path)
    assert {name: g.dim for name, g in found.gaussians.items()} == {"features": 6, "spatial": 4}
    assert found.gaussians["features"].n is None
    assert holds_images(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_stream_in_order_and_labels_come_along(tmp_path, save):
    images = drawn_images(7, 8, 1)
    save(tmp_path / "samples.npz", images.permute(0, 2, 3, 1).numpy(), np.arange(7))
    found = NpzImages(tmp_path / "samples.npz")
    assert (found.n, found.height, found.width) == (7, 8, 8)
    assert found.labels.tolist() == list(range(7))
    assert read_statistics(tmp_path / "samples.npz") is None
    batches = list(found.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat(batches), images)


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(1))
    with pytest.raises(DiscliError, match="mu cannot be read"):
        read_statistics(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "do not fit"),
        ({"mu": np.array([np.nan, 0]), "sigma": np.eye(2)}, "NaN"),
        ({"weights": np.zeros(3)}, "neither statistics"),
    ],
)
def test_unusable_statistics_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DiscliError, match=message):
        read_statistics(tmp_path / "bad.npz")


def test_images_of_another_type_or_cut_short_are_refused(tmp_path):
    np.savez(tmp_path / "floats.npz", np.zeros((4, 8, 8, 3), dtype=np.float32))
    with pytest.raises(DiscliError, match="float32 of shape"):
        NpzImages(tmp_path / "floats.npz")
    (tmp_path / "noise.npz").write_bytes(b"not a zip")
    with pytest.raises(DiscliError, match=r"not a readable \.npz"):
        read_statistics(tmp_path / "noise.npz")
    np.savez(tmp_path / "whole.npz", np.zeros((4, 8, 8, 3), dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "short.npz", "w") as short:
        short.writestr("arr_0.npy", whole.read("arr_0.npy")[:-100])
    with pytest.raises(DiscliError, match="ends before its last image"):
        list(NpzImages(tmp_path / "short.npz").batches(2))


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.array(["a"])},
        {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
        {"discli": np.array("[1]")},
        {"discli": np.array('{"n": {"features": "many"}}')},
        {"discli": np.array('{"resolution": 8}')},
        {"discli": np.array("[" * 50_000)},
    ],
)
def test_statistics_that_are_none_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "ref.npz", **({"mu": np.zeros(1), "sigma": np.eye(1)} | arrays))
    with pytest.raises(DiscliError, match=r"ref\.npz"):
        read_statistics(tmp_path / "ref.npz")


def test_a_member_without_its_ending_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "ref.npz", "w") as archive:
        for name in ("mu", "sigma"):
            archive.writestr(name, b"x")
    with pytest.raises(DiscliError, match="not a readable"):
        read_statistics(tmp_path / "ref.npz")
