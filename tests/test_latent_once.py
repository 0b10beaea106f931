"""Latent models: their autoencoder is loaded, hashed and tried once, and a data file is not read to be known again."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import discli
import discli.data.autoencoders.latents as latents_module
import discli.sampling.load as trained_module
from discli.data.encode import encode
from discli.evaluation.images import open_images
from discli.sampling.load import find_model_batch
from discli.training.train import train
from tests.data.autoencoders.autoencoders import save_kl
from tests.tiny_run import RECIPE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def latents(digits_file, tmp_path_factory) -> Path:
    """A few of the digits at 16 px, as the latents of an autoencoder."""
    place = tmp_path_factory.mktemp("latents")
    folder = digits_file.parent / "all"
    chosen = place / "digits"
    for path in sorted(folder.glob("*/*.png")):
        if int(path.stem) < 4:
            (chosen / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, chosen / path.parent.name)
    return encode(chosen, 16, codec="vae", vae=str(save_kl(place / "vae")), out=place / "latents.h5", workers=0)


@pytest.fixture
def loaded(monkeypatch) -> list[int]:
    """One entry for each time that an autoencoder is hashed."""
    times: list[int] = []
    original = latents_module._sha256
    monkeypatch.setattr(latents_module, "_sha256", lambda vae: (times.append(1), original(vae))[1])
    return times


@pytest.fixture
def settings(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))
    return [
        "data.resolution=16",
        'data.codec={name="vae"}',
        "data.horizontal_flip=false",
        "model.patch_size=1",
        "train.steps=8",
        "train.checkpoint_every=8",
        "train.preview_every=2",
        "train.preview_count=2",
        'train.score={every=4,n=4,features="random"}',
    ]


def test_a_run_loads_its_autoencoder_once_for_all_previews_and_scores(latents, tmp_path, settings, loaded):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    run = train(recipe, data=latents, out=tmp_path / "run", overrides=settings)
    assert len(list((run / "previews").glob("*.png"))) >= 4
    assert len(loaded) <= 2, "one for what is drawn, one for the pass over the data that it is scored against"

    loaded.clear()
    model = discli.load(run)
    first, second = (discli.sample(model, 3, seed=seed) for seed in (0, 0))
    assert torch.equal(first.pixels, second.pixels)
    assert len(loaded) == 1


def test_passes_over_stored_latents_load_it_once(latents, loaded):
    images = open_images(latents, CPU)
    for _ in range(3):
        assert sum(map(len, images.batches(range(5), 2))) == 5
    assert len(loaded) == 1


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_a_data_file_is_known_without_reading_it_all(kind, latents, digits_file, tmp_path, monkeypatch):
    file = latents if kind == "latents" else digits_file

    def read_all(path):
        raise AssertionError(f"{path} was read from end to end")

    monkeypatch.setattr("discli.evaluation.images.sha256_of", read_all)
    known = open_images(file, CPU).content_sha256()
    copy = shutil.copy(file, tmp_path / "renamed.h5")
    assert open_images(copy, CPU).content_sha256() == known, "wherever it lies"


@pytest.mark.parametrize("change", ["labels", "samples", "contract"])
def test_other_images_are_another_file(change, digits_file, tmp_path):
    copy = Path(shutil.copy(digits_file, tmp_path / "changed.h5"))
    with h5py.File(copy, "r+", locking=False) as file:
        match change:
            case "labels":
                file["labels"][3] = (file["labels"][3] + 1) % 10
            case "samples":
                file["samples"][...] = 255 - np.asarray(file["samples"])
            case "contract":
                text = file["contract"][()].decode()
                file["contract"][()] = text.replace('"source_sha256":"', '"source_sha256":"0')
    assert open_images(copy, CPU).content_sha256() != open_images(digits_file, CPU).content_sha256()


def test_the_batch_that_fits_is_looked_for_once_a_model_and_way_of_calling(tiny_run, monkeypatch):
    model = discli.load(tiny_run, device="cpu")
    settings = model.recipe.sample.model_copy(update={"model_batch": "auto", "precision": "fp32"})
    object.__setattr__(model, "device", torch.device("cuda"))
    tried: list[int] = []

    def peak(trained, settings, images, shape):
        tried.append(images)
        return images << 20

    monkeypatch.setattr(trained_module, "_peak_bytes", peak)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("", (), {"total_memory": 1 << 30}))
    assert find_model_batch(model, settings) == find_model_batch(model, settings)
    assert len(tried) == 3
    find_model_batch(model, settings.model_copy(update={"cfg_scale": 1.0}))
    assert len(tried) == 6, "half as many rows a call"
