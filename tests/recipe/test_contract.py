"""What a data file promises is kept, shown, and compared with what a recipe wants."""

import tomllib

import pytest

from discli.data.autoencoders.vae import VaeIdentity
from discli.recipe import check_fits, parse_recipe
from discli.recipe.contract import DataContract, FeatureGrid
from discli.recipe.train import TrainSpec
from discli.runtime.errors import DiscliError
from tests.data.files import contract

LATENTS = contract(
    codec=VaeIdentity(vae="org/vae", kind="AutoencoderKL", weights_sha256="beef", scaling_factor=0.18215),
    resolution=256,
    dtype="float16",
    flip_stored=True,
    class_names=tuple(f"n{i:08d}" for i in range(1000)),
    num_samples=1_281_167,
    channel_mean=(0.1, 0.2, 0.3, 0.4),
    channel_std=(1.0, 1.1, 1.2, 1.3),
)


def recipe(data=None, **model):
    tree = {
        "name": "mine",
        "model": {"preset": "dis-s", "patch_size": 2, "num_classes": 1000, **model},
        "data": {"resolution": 256, "codec": {"name": "vae"}, **(data or {})},
        "train": {"steps": 1},
    }
    return parse_recipe(tree, "mine.toml")


def test_the_contract_survives_json():
    assert DataContract.model_validate_json(LATENTS.model_dump_json()) == LATENTS


def test_row_shapes_follow_from_the_rest():
    assert LATENTS.row_shape == (2, 8, 32, 32)
    assert LATENTS.model_copy(update={"flip_stored": False}).row_shape == (8, 32, 32)
    assert contract(resolution=64).row_shape == (3, 64, 64)


def test_everything_is_described():
    described = dict(LATENTS.describe())
    text = " ".join(described.values())
    facts = ["1,281,167", "256 px", "crop adm", "org/vae", "AutoencoderKL", "beef", "0.18215", "both orientations"]
    facts += ["2 x 8 x 32 x 32 float16", "0 n00000000, 1 n00000001", "999 n00000999", "abc", "0.1, 0.2, 0.3, 0.4"]
    assert [fact for fact in facts if fact not in text] == []
    assert all("\n" not in line for line in described.values())
    assert dict(contract(shard=(1, 4)).describe())["part"] == "1 of 4, not merged yet"
    assert "unlabelled" in dict(contract(class_names=()).describe())["classes"]


def test_settings_leave_out_what_only_came_of_a_run():
    finished = LATENTS.model_copy(update={"num_samples": 3, "num_skipped": 4, "channel_mean": (), "source": "moved"})
    assert finished.settings() == LATENTS.settings()
    moved = LATENTS.codec.model_copy(update={"vae": "/elsewhere"})
    assert LATENTS.model_copy(update={"codec": moved}).settings() == LATENTS.settings()
    for change in ({"crop": "resize"}, {"source_sha256": "x"}, {"flip_stored": False}, {"dtype": "float32"}):
        assert LATENTS.model_copy(update=change).settings() != LATENTS.settings()


def test_fitting_data_is_accepted():
    check_fits(recipe(), LATENTS, "in256.h5")
    check_fits(recipe(num_classes=0), LATENTS, "in256.h5")
    check_fits(recipe({"codec": {"name": "vae", "vae": "org/vae"}}), LATENTS, "in256.h5")


def test_the_same_folder_is_the_same_autoencoder_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "vae").mkdir()
    monkeypatch.chdir(tmp_path)
    held = LATENTS.model_copy(update={"codec": LATENTS.codec.model_copy(update={"vae": str(tmp_path / "vae")})})
    check_fits(recipe({"codec": {"name": "vae", "vae": "./vae"}}), held, "in256.h5")
    with pytest.raises(DiscliError, match="latents of"):
        check_fits(recipe({"codec": {"name": "vae", "vae": "./other"}}), held, "in256.h5")


@pytest.mark.parametrize(
    ("data", "model", "held", "ours", "theirs"),
    [
        ({"codec": "rgb"}, {}, {}, 'data.codec is "rgb"', 'holds "vae"'),
        ({"resolution": 512}, {}, {}, "data.resolution is 512", "images of 256 px"),
        ({"codec": {"name": "vae", "channels": 8}}, {}, {}, "data.codec.channels is 8", "channels 4"),
        ({"codec": {"name": "vae", "vae": "my/vae"}}, {}, {}, "data.codec.vae is my/vae", "latents of org/vae"),
        ({}, {"num_classes": 10}, {}, "model.num_classes is 10", "1000 classes"),
        ({}, {}, {"class_names": ()}, "model.num_classes is 1000", "no labels"),
        ({}, {}, {"flip_stored": False}, "data.horizontal_flip is true", "one orientation"),
    ],
)
def test_a_mismatch_is_one_line_that_names_both_sides(data, model, held, ours, theirs):
    with pytest.raises(DiscliError) as refused:
        check_fits(recipe(data, **model), LATENTS.model_copy(update=held), "in256.h5")
    assert ours in refused.value.message
    assert theirs in refused.value.message
    assert "mine" in refused.value.message
    assert "in256.h5" in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("change", [{"resolution": 0}, {"num_samples": -1}, {"channel_mean": (float("nan"),)}])
def test_what_no_data_file_holds_is_no_contract(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        contract(**change)


def test_features_of_images_that_are_no_square_are_asked_for_as_a_recipe_says_it():
    grid = FeatureGrid(name="net", network="", weights_sha256="1", input_size=[192, 256], side=[6, 8], channels=4)
    held = LATENTS.model_copy(update={"grids": (grid,)})
    aligned = {"features": "net", "input_size": 256}
    wanted = recipe().model_copy(update={"train": TrainSpec.model_validate({"steps": 1, "align": aligned})})
    with pytest.raises(DiscliError) as refused:
        check_fits(wanted, held, "in256.h5")
    setting = refused.value.hint.partition("--set ")[2]
    (size,) = tomllib.loads(setting.replace(".", "_")).values()
    assert size == [192, 256]
