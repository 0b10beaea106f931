"""Latents normalised per channel by what was measured while they were encoded: of one file, of parts, of several."""

import json

import numpy as np
import pytest
import torch

from discli.data.autoencoders import load_codec
from discli.data.content import content_sha256
from discli.data.encode import encode, merge
from discli.data.merge import merge_virtually
from discli.data.store import open_store
from discli.recipe.contract import DataContract
from discli.runtime.errors import DiscliError
from tests.data.autoencoders.autoencoders import save_flux2, save_kl
from tests.data.makers import class_files, write_folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """Of 16 channels, which publishes no scale."""
    return str(save_kl(tmp_path_factory.mktemp("vae") / "kl16", scaling_factor=0.18215, channels=16))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", class_files(("ant", "bee"), each=3))


def run(folder, out, vae, **options):
    return encode(folder, 16, vae=vae, out=out, workers=0, device="cpu", **options)


def seen(store):
    """(n, C, h, w) of all that is stored, both orientations, as the model sees it: means, and its spread."""
    rows = torch.from_numpy(np.array(store.rows)).flatten(0, 1)
    mean = store.contract.codec.to_model_space(rows)
    return mean, store.contract.codec.stats_in_model_space(*rows.float().chunk(2, dim=1))[1]


def unit(store):
    mean, std = seen(store)
    of_all = mean.mean((0, 2, 3))
    spread = (mean.var((0, 2, 3), correction=0) + std.square().mean((0, 2, 3))).sqrt()
    torch.testing.assert_close(of_all, torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread, torch.ones(16), atol=1e-4, rtol=0)
    return True


def test_each_channel_is_0_and_1_to_the_model_and_decodes_to_what_it_was(folder, tmp_path, vae):
    store = open_store(run(folder, tmp_path / "a.h5", vae))
    identity = store.contract.codec
    assert identity.normalise == "channels"
    assert len(identity.mean) == len(identity.std) == 16
    assert unit(store)
    assert (store.contract.channel_mean, store.contract.channel_std) == ((0,) * 16, (1,) * 16)
    stored = store.read(np.arange(6))
    (tmp_path / "a.h5").unlink()
    kept = DataContract.model_validate_json(store.contract.model_dump_json())  # as a run keeps it
    codec = load_codec(kept.codec)
    exact = codec.image(stored.float()[:, :16])
    decoded = codec.decode(kept.codec.to_model_space(stored))
    assert (decoded - ((exact + 1) * 127.5).clamp(0, 255)).abs().max() < 0.6


def test_parts_and_several_files_are_normalised_as_one(folder, tmp_path, vae):
    whole = open_store(run(folder, tmp_path / "whole.h5", vae))
    for i in range(2):
        run(folder, tmp_path / "parts.h5", vae, shard=(i, 2))
    together = open_store(tmp_path / "parts.shard-*-of-2.h5")
    alone = [open_store(_alone(name, folder, tmp_path, vae)) for name in ("ant", "bee")]
    assert alone[0].contract.codec.mean != alone[1].contract.codec.mean
    assert together.contract == whole.contract
    assert merge(tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    several = open_store(f"{tmp_path}/ant.h5,{tmp_path}/bee.h5")
    np.testing.assert_allclose(several.contract.codec.mean, whole.contract.codec.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(several.contract.codec.std, whole.contract.codec.std, rtol=1e-4)
    assert unit(several)
    virtual = merge_virtually(tmp_path / "virtual.h5", [tmp_path / "ant.h5", tmp_path / "bee.h5"])
    assert open_store(virtual.path).contract == several.contract


def _alone(name, folder, tmp_path, vae):
    names = tmp_path / f"{name}.json"
    names.write_text(json.dumps({"labels": [[f"{k}.png", 0] for k in range(3)], "classes": ["any"]}))
    return run(folder / name, tmp_path / f"{name}.h5", vae, labels=names)


def test_a_file_says_how_it_is_normalised_and_is_not_gone_on_with_otherwise(folder, tmp_path):
    named = str(save_kl(tmp_path / "published"))
    by_scale = open_store(run(folder, tmp_path / "scale.h5", named))
    assert (by_scale.contract.codec.normalise, by_scale.contract.codec.scaling_factor) == ("scale", 0.5)
    with pytest.raises(DiscliError, match=r"with codec\.normalise scale, not channels"):
        run(folder, tmp_path / "scale.h5", named, normalise="channels")
    by_channel = open_store(run(folder, tmp_path / "channels.h5", named, normalise="channels"))
    assert np.array_equal(by_scale.rows, by_channel.rows)
    assert content_sha256(by_scale) != content_sha256(by_channel)
    with pytest.raises(DiscliError, match=r"codec\.normalise"):
        open_store(f"{tmp_path}/scale.h5,{tmp_path}/channels.h5")
    lines = dict(by_channel.contract.describe())
    assert "mean" in lines["scaling"]
    assert lines["mean"].endswith("of z")


def test_what_cannot_be_normalised_so_is_refused(folder, tmp_path):
    with pytest.raises(DiscliError, match="--normalise") as refused:
        encode(folder, 16, codec="rgb", out=tmp_path / "a.h5", workers=0, normalise="channels")
    assert refused.value.status == 2
    with pytest.raises(DiscliError, match="publishes no scale"):
        run(folder, tmp_path / "b.h5", str(save_flux2(tmp_path / "flux2")), normalise="scale")


def test_a_file_of_before_is_read_by_its_scale():
    before = {"name": "vae", "vae": "x", "kind": "AutoencoderKL", "weights_sha256": "0", "scaling_factor": 0.5}
    contract = {"discli_version": "0", "codec": before, "resolution": 16, "crop": "adm", "dtype": "float16"}
    contract |= {"flip_stored": True, "num_samples": 1, "class_names": [], "source": "", "source_sha256": ""}
    codec = DataContract.model_validate(contract).codec
    stored = torch.ones(1, 8, 2, 2)
    assert (codec.to_model_space(stored) == 0.5).all()
