"""Exported weights: loaded by diffusers and by discli, with the images of ``discli sample``, bit for bit."""

import json
import os
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import discli
from discli.data.autoencoders import open_codec
from discli.diffusion.samplers import build_sampler
from discli.model import DiS
from discli.recipe import DataContract, parse_recipe
from discli.runtime.errors import DiscliError
from discli.sampling.diffusers_scheduler import diffusers_scheduler
from discli.sampling.export import export_diffusers, export_safetensors, push_to_hub
from tests import warm
from tests.local_hub import local_hub
from tests.reports.test_compare_scores import changed

SCORE = changed(
    features="random",
    scores={"FD (random features), not comparable with FID": 1.234},
    distance=1.234,
    samples={"path": "s", "kind": "samples", "resolution": [8, 8], "n": 200, "nfe": 40, "cfg_scale": 2.0, "seed": 0},
    reference={"path": "r", "sha256": "0", "n": 1797},
)


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("exported")
    (place / "score.json").write_text(json.dumps(SCORE))
    return export_diffusers(discli.load(tiny_run), place / "tiny", [place / "score.json"])


def _as_tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("settings", [{}, {"sampler": "unipc", "cfg_scale": 3.0, "classes": "balanced", "seed": 5}])
def test_diffusers_loads_the_folder_and_draws_the_same_images(folder, tiny_run, settings):
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    ours = discli.sample(tiny_run, 6, **settings)
    assert torch.equal(_as_tensor(pipeline(6, **settings).images), ours.pixels)


@pytest.fixture(scope="module")
def pipeline(folder):
    return DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)


def test_arguments_are_called_as_diffusers_calls_them(pipeline, tiny_run):
    ours = discli.sample(tiny_run, 3, steps=3, cfg_scale=3.0, classes=[7, 3, 1], seed=5).pixels
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "class_labels": [7, 3, 1], "seed": 5}
    assert torch.equal(_as_tensor(pipeline(**settings).images), ours)
    assert torch.equal(pipeline(**settings, output_type="pt").images, ours.float() / 255)
    array = pipeline(**settings, output_type="np", return_dict=False)[0]
    assert (array.shape, array.dtype) == ((3, 8, 8, 3), np.float32)
    assert np.array_equal(array.transpose(0, 3, 1, 2), (ours.float() / 255).numpy())


def test_a_generator_is_drawn_from(pipeline):
    def twice(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [pipeline(2, generator=generator, output_type="pt").images for _ in range(2)]

    first, second = twice(0)
    assert all(torch.equal(a, b) for a, b in zip(twice(0), (first, second), strict=True))
    assert not torch.equal(first, second)
    assert not torch.equal(first, twice(1)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"classes": "dog"},
        {"class_labels": [10]},
        {"num_inference_steps": 1001},
        {"sampler": "dmp"},
        {"guidance_scal": 2.0},
        {"autoguidance": "nowhere", "guidance_scale": 1.0},
        {"output_type": "latent"},
        {"num_inference_steps": 3, "steps": 4},
        {"seed": 1, "generator": torch.Generator()},
    ],
)
def test_its_errors_speak_of_arguments(pipeline, wrong):
    with pytest.raises((DiscliError, ValueError, TypeError)) as caught:
        pipeline(**wrong)
    assert "--" not in str(caught.value)
    assert "-n " not in str(caught.value)
    assert "flag" not in str(caught.value)


def test_the_pipelines_network_is_prepared_once(pipeline):
    pipeline(1)
    ready = pipeline._ready
    pipeline(1)
    assert pipeline._ready is ready


def latent_model(folder: Path) -> Path:
    """Untrained weights of a latent model in one file, with an autoencoder beside it in vae/."""
    torch.manual_seed(0)
    AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    identity = open_codec("vae", str(folder / "vae")).identity
    recipe = parse_recipe(
        {
            "name": "latent",
            "model": {"embed_dim": 16, "depth": 3},
            "data": {"resolution": 16, "codec": {"name": "vae", "downsample": identity.downsample}},
            "train": {"steps": 1},
            "sample": {"steps": 3, "model_batch": 4},
        },
        "test",
    )
    contract = DataContract(
        discli_version="0",
        codec=identity,
        resolution=16,
        crop="adm",
        dtype="float16",
        flip_stored=False,
        num_samples=1,
        class_names=(),
        source="",
        source_sha256="",
    )
    described = {"recipe": recipe.model_dump_json(), "contract": contract.model_dump_json()}
    save_file(DiS.from_recipe(recipe).state_dict(), folder / "latent.safetensors", metadata=described)
    return folder / "latent.safetensors"


def test_a_latent_model_takes_its_autoencoder_along(tmp_path):
    model = discli.load(latent_model(tmp_path))
    folder = export_diffusers(model, tmp_path / "exported")
    expected = discli.sample(model, 3).pixels
    (tmp_path / "vae").rename(tmp_path / "elsewhere")
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(_as_tensor(pipeline(3).images), expected)


def test_the_model_card_has_recipe_scores_and_grid(folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "1.234 (n 200, nfe 40, cfg_scale 2.0, seed 0; against 1797 images)" in card
    assert '"embed_dim": 16' in card
    with Image.open(folder / "samples.png") as grid:
        assert grid.height == 8 * 66 + 2
        assert grid.width > 6 * 66 + 2


def test_a_safetensors_file_holds_the_recipe_and_is_sampled_from(tiny_run, tmp_path):
    path = export_safetensors(discli.load(tiny_run), tmp_path / "tiny.safetensors")
    trained = load_file(tiny_run / "checkpoints" / "00000030" / "ema.safetensors")
    exported = load_file(path)
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[name], trained[name]) for name in trained)
    model = discli.load(path)
    assert (model.recipe.name, model.step) == ("tiny", 30)
    assert torch.equal(discli.sample(model, 3).pixels, discli.sample(tiny_run, 3).pixels)


def test_nothing_is_overwritten_and_a_bad_score_leaves_nothing(tiny_run, folder, tmp_path):
    model = discli.load(tiny_run)
    with pytest.raises(DiscliError, match="there already"):
        export_diffusers(model, folder)
    (tmp_path / "score.json").write_text("[]")
    with pytest.raises(DiscliError, match="is corrupt"):
        export_diffusers(model, tmp_path / "new", [tmp_path / "score.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["score.json"]


@pytest.mark.slow
def test_without_a_network_pushing_is_one_line_and_the_folder_stays(folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = (
        "from pathlib import Path\nfrom discli.runtime.errors import DiscliError\n"
        "from discli.sampling.export import push_to_hub\n"
        f"try: push_to_hub(Path({str(folder)!r}), 'me/tiny')\nexcept DiscliError as error: print(error)"
    )
    done = warm.run("-c", code)
    assert "The hub cannot be reached" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert (folder / "model_index.json").is_file()
    with pytest.raises(DiscliError, match="user/name"):
        push_to_hub(folder, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("token", ["right", "wrong"])
def test_the_hubs_own_client_uploads_the_folder_whole(tiny_run, tmp_path, token):
    folder = tmp_path / "tiny"
    export = ["export", str(tiny_run), "--to", "diffusers", "--out", str(folder), "--push-to-hub", "me/tiny"]
    with local_hub(token="right") as hub:
        online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        # Not by the hub's newer protocol for large files, which is another program's.
        client = {"HF_TOKEN": token, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = online | client | {"HF_ENDPOINT": hub.endpoint}
        done = warm.run("-m", "discli", *export, env=environment)
    if token == "wrong":
        assert done.returncode == 2
        assert "Pushing to me/tiny failed: " in done.stderr
        assert "hf auth login" in done.stderr
        assert "Traceback" not in done.stderr
        assert hub.files == {}
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.endpoint}/me/tiny"
        assert hub.summary == f"discli {discli.__version__}"
        exported = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert hub.files == exported
        assert hub.large


def _recipe(objective, **sample):
    tree = {"name": "t", "model": {"embed_dim": 16, "depth": 3}, "data": {"resolution": 8}, "train": {"steps": 1}}
    return parse_recipe(tree | {"diffusion": {"objective": objective}, "sample": sample}, "t")


@pytest.mark.parametrize(
    ("sampler", "spacing", "steps"),
    [
        ("ddpm", "linspace", 250),
        ("ddim", "leading", 50),
        ("ddim", "trailing", 30),
        ("ddim", "ddim", 50),
        ("euler", "trailing", 20),
        ("dpm-solver++", "trailing", 20),
        ("sde-dpm-solver++", "leading", 20),
        ("unipc", "linspace", 20),
    ],
)
def test_the_exported_scheduler_has_the_same_times(sampler, spacing, steps, tmp_path):
    recipe = _recipe("v", sampler=sampler, timestep_spacing=spacing, steps=steps)
    found = diffusers_scheduler(recipe)
    found.save_pretrained(tmp_path)
    theirs = type(found).from_pretrained(tmp_path)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == build_sampler(recipe.diffusion, recipe.sample).times[:-1]
    assert theirs.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("objective", "sample"),
    [
        ("x0-flow", {"sampler": "heun"}),
        ("v", {"sampler": "ddim", "timestep_spacing": "ddim", "steps": 334}),  # diffusers would take 0, 2, 4, ...
        ("v", {"sampler": "heun", "steps": 20}),
    ],
)
def test_no_scheduler_is_exported_of_other_times(objective, sample):
    assert diffusers_scheduler(_recipe(objective, **sample)) is None


def test_the_folder_has_its_scheduler(folder, tiny_run):
    name = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    sample = discli.load(tiny_run).recipe.sample
    found = getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")
    found.set_timesteps(sample.steps)
    assert found.timesteps.tolist() == build_sampler(discli.load(tiny_run).recipe.diffusion, sample).times[:-1]
