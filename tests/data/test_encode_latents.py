"""Encoding into latents: what is stored, and that no interruption shows in it."""

import numpy as np
import pytest
import torch
from PIL import Image

from discli.data.autoencoders import load_codec
from discli.data.encode import encode, merge
from discli.data.images import crop
from discli.data.store import open_store
from discli.data.writer import partial_of
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from tests.data.autoencoders.autoencoders import save_kl, save_tiny
from tests.data.makers import class_files, pixels, write_folder

FILES = class_files(("ant", "bee"), each=3)
IMAGES = np.stack([crop(Image.fromarray(pixels(10 * c + k)), Size(16, 16), "adm") for c in range(2) for k in range(3)])


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return str(save_kl(tmp_path_factory.mktemp("vae") / "kl"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", FILES)


def run(folder, out, vae, **options):
    return encode(folder, 16, vae=vae, out=out, workers=0, device="cpu", **options)


def test_moments_of_both_orientations_are_stored(folder, tmp_path, vae):
    store = open_store(run(folder, tmp_path / "a.h5", vae))
    assert store.rows.shape == (6, 2, 8, 2, 2)
    assert store.rows.dtype == np.float16
    codec = load_codec(store.contract.codec)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    indices = np.arange(6)
    for mirrored, image in ((False, images), (True, images.flip(-1))):
        stored = store.read(indices, np.full(6, mirrored))
        assert torch.equal(stored, codec.encode(image).half())
    assert not torch.equal(store.read(indices, np.full(6, True)), store.read(indices).flip(-1))


def test_one_orientation_in_float32(folder, tmp_path, vae):
    store = open_store(run(folder, tmp_path / "a.h5", vae, flip=False, latent_dtype="float32"))
    assert store.rows.shape == (6, 8, 2, 2)
    assert (store.contract.dtype, store.contract.flip_stored) == ("float32", False)


def test_the_contract_knows_the_autoencoder_and_the_statistics_of_its_latents(folder, tmp_path, vae):
    contract = open_store(run(folder, tmp_path / "a.h5", vae)).contract
    assert (contract.codec.vae, contract.codec.kind, contract.codec.scaling_factor) == (vae, "AutoencoderKL", 0.5)
    assert len(contract.codec.weights_sha256) == 64
    store = open_store(tmp_path / "a.h5")
    both = torch.cat([store.read(np.arange(6), np.full(6, mirrored)) for mirrored in (False, True)])
    seen = contract.codec.to_model_space(both)
    np.testing.assert_allclose(contract.channel_mean, seen.mean((0, 2, 3)), atol=1e-5)
    drawn = (seen.var((0, 2, 3), correction=0) + (both[:, 4:].float() * 0.5).square().mean((0, 2, 3))).sqrt()
    np.testing.assert_allclose(contract.channel_std, drawn, rtol=1e-4)


def test_interrupted_sharded_or_in_other_batches_the_rows_are_the_same(folder, tmp_path, vae, monkeypatch):
    import discli.data.encoding

    whole = run(folder, tmp_path / "whole.h5", vae).read_bytes()
    real = discli.data.encoding.decode_batches

    def interrupted(*arguments):
        for count, batch in enumerate(real(*arguments)):
            if count == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(discli.data.encoding, "decode_batches", interrupted)
    with pytest.raises(DiscliError, match="Stopped"):
        run(folder, tmp_path / "again.h5", vae, batch_size=2)
    monkeypatch.undo()
    assert run(folder, tmp_path / "again.h5", vae, batch_size=4).read_bytes() == whole
    for i in range(2):
        run(folder, tmp_path / "parts.h5", vae, shard=(i, 2), batch_size=1)
    assert merge(tmp_path / "parts.h5").read_bytes() == whole


def test_another_autoencoder_cannot_go_on_with_the_file(folder, tmp_path, vae):
    run(folder, tmp_path / "a.h5", vae)
    other = str(save_kl(tmp_path / "other", seed=1))
    with pytest.raises(DiscliError, match=r"with codec\.weights_sha256 .*, not"):
        run(folder, tmp_path / "a.h5", other)
    copied = str(save_kl(tmp_path / "copied"))
    run(folder, tmp_path / "a.h5", copied)


def test_latents_are_the_default_above_64_px(folder, tmp_path, vae, monkeypatch, capsys):
    monkeypatch.setattr("discli.data.autoencoders.vae.VaeCodec.default_vae", vae)
    store = open_store(encode(folder, 128, out=tmp_path / "a.h5", workers=0, device="cpu"))
    assert store.contract.codec.name == "vae"
    assert "codec vae, since 128 px is above 64" in capsys.readouterr().err


def test_a_resolution_the_autoencoder_does_not_divide_is_refused(folder, tmp_path, vae):
    with pytest.raises(DiscliError, match=r"--res 30 .*multiple of 8") as refused:
        encode(folder, 30, vae=vae, out=tmp_path / "a.h5", workers=0, device="cpu")
    assert refused.value.hint == "Nearest: --res 32"


def test_latents_beyond_float16_are_noticed(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = save_tiny(tmp_path / "loud") / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    last = max((name for name in tensors if name.startswith("encoder")), key=lambda name: int(name.split(".")[2]))
    save_file(tensors | {last: tensors[last] + 1e6}, weights, {"format": "pt"})
    with pytest.raises(DiscliError, match=r"infinite or undefined latents near ant/0\.png"):
        run(folder, tmp_path / "a.h5", str(tmp_path / "loud"))
    assert partial_of(tmp_path / "a.h5").exists()


def test_images_that_are_all_bad_in_a_batch_leave_no_hole(folder, tmp_path, vae):
    write_folder(folder, {"ant/1.png": b"bad", "ant/2.png": b"bad"})
    store = open_store(run(folder, tmp_path / "a.h5", vae, batch_size=1))
    assert store.names == ["ant/0.png", "bee/0.png", "bee/1.png", "bee/2.png"]
