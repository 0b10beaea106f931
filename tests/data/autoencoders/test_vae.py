"""Autoencoders of three kinds, loaded by the real code from folders."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from discli.data.autoencoders import load_codec, open_codec
from discli.data.autoencoders.vae import VaeCodec
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from tests.data.autoencoders.autoencoders import save_dc, save_flux2, save_kl, save_tiny

IMAGES = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoencoders")
    save_kl(root / "kl", shift_factor=0.1)
    save_tiny(root / "tiny")
    save_dc(root / "dc")
    save_kl(root / "kl16", scaling_factor=0.18215, channels=16)
    save_kl(root / "flux1", scaling_factor=0.3611, shift_factor=0.1159, channels=16)
    save_kl(root / "va", scaling_factor=0.18215, channels=32, halvings=4, attention=True)
    save_kl(root / "eq", latents_mean=(0.1,) * 4, latents_std=(3.0,) * 4)
    save_dc(root / "dc32", latent_channels=32, scaling_factor=1.0)
    save_flux2(root / "flux2")
    return root


@pytest.mark.parametrize(
    ("name", "kind", "channels", "downsample", "scale", "shift"),
    [
        ("kl", "AutoencoderKL", 4, 8, 0.5, 0.1),
        ("tiny", "AutoencoderTiny", 4, 8, 1.0, 0.0),
        ("dc", "AutoencoderDC", 8, 32, 0.25, 0.0),
        ("dc32", "AutoencoderDC", 32, 32, None, 0.0),
        ("kl16", "AutoencoderKL", 16, 8, None, 0.0),
        ("flux1", "AutoencoderKL", 16, 8, 0.3611, 0.1159),
        ("va", "AutoencoderKL", 32, 16, None, 0.0),
        ("eq", "AutoencoderKL", 4, 8, None, 0.0),
        ("flux2", "AutoencoderKLFlux2", 128, 16, None, 0.0),
    ],
)
def test_each_kind_is_measured_encoded_and_decoded(folder, name, kind, channels, downsample, scale, shift):
    codec = open_codec("vae", str(folder / name))
    identity = codec.identity
    assert (identity.kind, identity.channels, identity.downsample) == (kind, channels, downsample)
    assert (identity.scaling_factor, identity.shift_factor) == (scale, shift)
    assert identity.normalise == ("channels" if scale is None else "scale")
    stored = codec.encode(IMAGES)
    assert stored.shape == (5, 2 * channels, 64 // downsample, 64 // downsample)
    std = stored.chunk(2, dim=1)[1]
    assert (std == 0).all() if kind in ("AutoencoderTiny", "AutoencoderDC") else (std > 0).all()
    if scale is None:
        generator = torch.Generator().manual_seed(0)
        spread = torch.rand(channels, generator=generator).add(0.1)
        codec.identity = identity.measured(tuple((spread - 0.5).tolist()), tuple(spread.tolist()))
    z = codec.identity.to_model_space(stored)
    torch.testing.assert_close(codec.identity.from_model_space(z), stored.chunk(2, dim=1)[0])
    decoded = codec.decode(z)
    assert decoded.shape == IMAGES.shape
    assert decoded.dtype == torch.uint8


def test_the_latents_of_flux2_are_those_of_its_pipeline(folder):
    """`diffusers.Flux2Pipeline`, which needs transformers, reshapes so in `_patchify_latents`."""
    from diffusers import AutoencoderKLFlux2

    codec = open_codec("vae", str(folder / "flux2"))
    theirs = AutoencoderKLFlux2.from_pretrained(folder / "flux2")
    with torch.no_grad():
        latent = theirs.encode(IMAGES.float() / 127.5 - 1).latent_dist.mean
        decoded = theirs.decode(latent).sample
    mean = codec.encode(IMAGES).chunk(2, dim=1)[0]
    patches = latent.unflatten(3, (4, 2)).unflatten(2, (4, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    torch.testing.assert_close(mean, patches)
    torch.testing.assert_close(codec.image(mean), decoded, atol=1e-4, rtol=0)


def test_an_autoencoder_decodes_as_the_file_was_normalised(folder):
    identity = open_codec("vae", str(folder / "kl")).identity
    measured = identity.model_copy(update={"normalise": "channels"}).measured((1.0, 2.0, 3.0, 4.0), (0.5,) * 4)
    codec = load_codec(measured)
    assert codec.identity == measured
    stored = codec.encode(IMAGES)
    by_scale = load_codec(identity)
    decoded = by_scale.decode(identity.to_model_space(stored))
    difference = codec.decode(measured.to_model_space(stored)).int() - decoded.int()
    assert difference.abs().max() <= 1
    assert (by_scale.decode(measured.to_model_space(stored)).int() - decoded.int()).abs().max() > 1


def test_moments_are_those_of_diffusers(folder):
    from diffusers import AutoencoderKL

    codec = open_codec("vae", str(folder / "kl"))
    theirs = AutoencoderKL.from_pretrained(folder / "kl")
    with torch.no_grad():
        posterior = theirs.encode(IMAGES.float() / 127.5 - 1).latent_dist
        decoded = theirs.decode(posterior.mean).sample
    stored = codec.encode(IMAGES)
    torch.testing.assert_close(stored, torch.cat([posterior.mean, posterior.std], dim=1))
    ours = codec.decode(codec.identity.to_model_space(stored))
    assert ((decoded + 1) * 127.5 - ours).abs().max() < 0.51 or decoded.abs().max() > 1


@pytest.mark.parametrize("slice_size", [1, 4])
def test_a_image_depends_neither_on_its_company_nor_on_its_place_nor_on_strides(folder, slice_size):
    codec = open_codec("vae", str(folder / "kl"), slice_size=slice_size)
    together = codec.encode(IMAGES)
    z = codec.identity.to_model_space(together)
    decoded = codec.decode(z)
    for i in range(5):
        assert torch.equal(codec.encode(IMAGES[i : i + 1])[0], together[i])
        assert torch.equal(codec.decode(z[i : i + 1])[0], decoded[i])
    assert torch.equal(codec.decode(z[1:4]), decoded[1:4])
    assert torch.equal(codec.decode(z.to(memory_format=torch.channels_last)), decoded)


@pytest.mark.parametrize(("pixels", "expected"), [(64, 16), (256, 16), (512, 4), (2048, 1)])
def test_large_images_are_decoded_a_few_at_a_time(folder, monkeypatch, pixels, expected):
    codec = open_codec("vae", str(folder / "kl"), slice_size=16)
    side = pixels // codec.identity.downsample
    sizes = []

    def decode(z):
        sizes.append(len(z))
        return SimpleNamespace(sample=torch.zeros(len(z), 3, 1, 1))

    monkeypatch.setattr(codec.module, "decode", decode)
    assert len(codec.decode(torch.zeros(17, codec.identity.channels, side, side))) == 17
    assert sizes == [expected] * -(-17 // expected)


def test_the_codec_of_a_file_is_found_again_and_checked(folder, tmp_path):
    identity = open_codec("vae", str(folder / "kl")).identity
    assert load_codec(identity).identity == identity
    moved = save_kl(tmp_path / "moved", shift_factor=0.1)
    assert load_codec(identity, vae=str(moved)).identity.weights_sha256 == identity.weights_sha256


def test_other_weights_are_refused_with_both_sides_named(folder, tmp_path):
    identity = open_codec("vae", str(folder / "kl")).identity
    other = save_kl(tmp_path / "other", seed=1, shift_factor=0.1)
    with pytest.raises(DiscliError, match=r"weights_sha256 .* but the data was encoded with") as refused:
        load_codec(identity, vae=str(other))
    assert identity.weights_sha256 in refused.value.message
    rescaled = save_kl(tmp_path / "rescaled", scaling_factor=0.6, shift_factor=0.1)
    with pytest.raises(DiscliError, match=r"scaling_factor 0\.6, but .* 0\.5"):
        load_codec(identity, vae=str(rescaled))


def test_the_hash_is_of_values_not_of_file_formats(folder, tmp_path):
    from diffusers import AutoencoderKL

    AutoencoderKL.from_pretrained(folder / "kl").save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert (tmp_path / "bin" / "diffusion_pytorch_model.bin").exists()
    one, other = (VaeCodec(str(path), torch.device("cpu")).identity for path in (folder / "kl", tmp_path / "bin"))
    assert one.weights_sha256 == other.weights_sha256


def test_files_of_the_age_of_the_default_autoencoder_load(folder, tmp_path):
    """sd-vae-ft-ema: no scaling factor in its config, attention under the names of before diffusers 0.17."""
    from safetensors.torch import load_file, save_file

    old = save_kl(tmp_path / "old", scaling_factor=0.18215)
    config = json.loads((old / "config.json").read_text())
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "mid_block_add_attention"):
        config.pop(key, None)
    (old / "config.json").write_text(json.dumps(config))
    before = open_codec("vae", str(old))
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(old / "diffusion_pytorch_model.safetensors")
    for new, deprecated in names.items():
        tensors = {name.replace(f".{new}.", f".{deprecated}."): tensor for name, tensor in tensors.items()}
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, old / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    codec = open_codec("vae", str(old))
    assert (codec.identity.scaling_factor, codec.identity.shift_factor) == (0.18215, 0.0)
    assert torch.equal(codec.encode(IMAGES), before.encode(IMAGES))
    assert codec.identity == before.identity


def test_a_pipeline_folder_gives_its_autoencoder(tmp_path):
    save_kl(tmp_path / "pipeline" / "vae")
    assert open_codec("vae", str(tmp_path / "pipeline")).identity.kind == "AutoencoderKL"


def unknown_kind(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))


def no_weights(folder):
    save_kl(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()


def cut_weights(folder):
    save_kl(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def no_json(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unknown_kind, "UNet2DModel, not an autoencoder"),
        (no_weights, "Cannot load the autoencoder"),
        (cut_weights, "Cannot load the autoencoder"),
        (no_json, r"config\.json cannot be read"),
        (lambda folder: folder.mkdir(), r"holds no config\.json"),
        (lambda folder: None, "There is no folder"),
    ],
)
def test_folders_that_are_no_autoencoder_are_refused_in_a_line(make, message, tmp_path):
    make(tmp_path / "vae")
    with pytest.raises(DiscliError, match=message) as refused:
        open_codec("vae", str(tmp_path / "vae"))
    assert refused.value.hint
    assert "\n" not in refused.value.message


@pytest.mark.slow
def test_torch_and_torchvision_from_different_indexes_are_explained(folder, tmp_path):
    """What such an installation does on import, done by a torchvision of ours that shadows the real one."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    code = (
        "import sys; from discli.data.autoencoders import open_codec; from discli.runtime.errors import DiscliError\n"
        f"try: open_codec('vae', {str(folder / 'kl')!r})\n"
        "except DiscliError as error: print(error.message)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "torch and torchvision come from different" in done.stdout


def test_float16_keeps_real_latents_to_a_thousandth_of_their_spread(shared):
    """Rounding loses at most 2^-11 of each value: far below what shows in a decoded image."""
    import zipfile

    from discli.data.images import crop, decode

    with zipfile.ZipFile(shared / "data" / "imagenet-sample.zip") as archive:
        names = archive.namelist()[::100]
        images = torch.stack(
            [torch.from_numpy(crop(decode(archive.read(n)), Size(256, 256), "adm").copy()) for n in names]
        )
    codec = open_codec("vae", str(shared / "vae-tiny"))
    exact = codec.encode(images.permute(0, 3, 1, 2))
    mean, std = exact.chunk(2, dim=1)
    kept_mean, kept_std = exact.half().float().chunk(2, dim=1)
    assert ((kept_mean - mean).square().mean() / mean.var()).sqrt() < 5e-4
    assert ((kept_std - std).abs() / std).max() < 2**-11 + 1e-6
    one, other = (codec.decode(codec.identity.to_model_space(stored)) for stored in (exact, exact.half()))
    difference = (one.float() - other.float()).abs()
    assert difference.max() <= 1
    assert difference.mean() < 0.05
