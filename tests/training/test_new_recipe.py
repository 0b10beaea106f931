"""``discli recipe new``: what it writes loads, fits the data, trains, and says what can be chosen."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from discli.cli.recipe import Preset
from discli.cost.flops import forward_flops
from discli.data.autoencoders.vae import VaeIdentity
from discli.recipe import check_fits, load_recipe, parse_recipe
from discli.recipe.config_warnings import config_warnings
from discli.recipe.model import ModelSpec
from discli.recipe.presets import PRESETS
from discli.recipe.size import Size
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training.new_recipe import _patch_size, new_recipe
from discli.training.timed_step import Trial
from discli.training.train import train
from tests.data.files import contract, some_rows, write_store

SETTING = re.compile(r"^#(\w+ = )", re.MULTILINE)


def test_a_training_step_runs_with_it(digits_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = new_recipe("mine", "dis-s", data=digits_file)
    assert written == Path("mine.toml")
    recipe = load_recipe(written)
    assert (recipe.data.resolution.plain(), recipe.data.codec.name, recipe.model.num_classes) == (8, "rgb", 10)
    assert recipe.sample.cfg_scale == 1.5
    # The network of the preset takes half a minute to build, step and write; a narrow one tells as much.
    few = ["train.steps=1", "train.batch_size=2", "train.preview_every=0", "model.embed_dim=16", "model.depth=3"]
    run = train(written, overrides=[*few, 'train.tracker="none"'])
    assert run == Path("runs/mine")
    assert [line["step"] for line in read_log(run / "metrics.jsonl")] == [1]


@pytest.mark.parametrize("flip_stored", [True, False])
@pytest.mark.parametrize("class_names", [(), ("ant", "bee")])
def test_it_fits_latents(tmp_path, flip_stored, class_names):
    vae = VaeIdentity(
        vae="org/vae", kind="AutoencoderDC", weights_sha256="0", scaling_factor=0.4, channels=32, downsample=32
    )
    promise = contract(codec=vae, resolution=256, dtype="float16", flip_stored=flip_stored, class_names=class_names)
    labels = np.zeros(1, np.int64) if class_names else None
    file = write_store(tmp_path / "dc.h5", some_rows(1, promise), promise, labels)
    recipe = load_recipe(new_recipe("mine", "dis-b", data=file, out=tmp_path / "deep" / "mine.toml"))
    check_fits(recipe, promise, "dc.h5")
    assert recipe.data.file == file
    assert recipe.data.horizontal_flip is flip_stored
    assert recipe.model.num_classes == len(class_names)
    assert (recipe.model.embed_dim, recipe.model.patch_size, recipe.num_patches) == (768, 1, 64)


@pytest.mark.parametrize(
    ("flags", "codec", "patches"),
    [
        ({"resolution": 32}, "rgb", 256),
        ({"resolution": 64}, "rgb", 1024),
        ({"resolution": 256, "num_classes": 1000}, "vae", 256),
        ({"resolution": 512}, "vae", 1024),
        ({"resolution": 128, "codec": "rgb"}, "rgb", 1024),
    ],
)
def test_without_a_file_flags_say_what_it_would(tmp_path, flags, codec, patches):
    recipe = load_recipe(new_recipe("mine", "dis-s", out=tmp_path / "mine.toml", **flags))
    assert (recipe.data.codec.name, recipe.num_patches) == (codec, patches)
    assert recipe.model.num_classes == flags.get("num_classes", 0)


@pytest.mark.parametrize("size", range(1, 130))
def test_patches_divide_and_are_never_too_many(size):
    patch = _patch_size([Size.square(size)])
    assert size % patch == 0
    assert size // patch <= 32
    assert patch == 2 or size % 2 or size > 64


def test_patches_divide_both_sides():
    assert [_patch_size([Size(*size)], wanted) for size, wanted in (((48, 64), 4), ((6, 10), 4), ((9, 15), 2))] == [
        4,
        2,
        1,
    ]


def test_patches_divide_images_of_all_shapes_of_a_file(tmp_path):
    promise = contract(resolution=32, shapes=(32, (22, 46), (46, 22)))
    file = write_store(
        tmp_path / "shaped.h5", some_rows(2, promise), promise, np.zeros(2, np.int64), np.array([0, 1], np.uint8)
    )
    recipe = load_recipe(new_recipe("mine", "dis-xs", data=file, out=tmp_path / "mine.toml"))
    assert recipe.model.patch_size == 2
    assert "32 or 22x46 or 46x22 px" in (tmp_path / "mine.toml").read_text()


def test_every_setting_commented_out_is_a_default(tmp_path):
    text = new_recipe("mine", "dis-s", resolution=32, out=tmp_path / "mine.toml").read_text()
    recipe = parse_recipe(tomllib.loads(text), "as written")
    assert len(SETTING.findall(text)) > 40
    assert parse_recipe(tomllib.loads(SETTING.sub(r"\1", text)), "uncommented") == recipe


def test_every_setting_is_there_with_its_choices(tmp_path):
    text = new_recipe("mine", "dis-s", resolution=32, out=tmp_path / "mine.toml").read_text()
    recipe = load_recipe(tmp_path / "mine.toml")
    for section in (recipe.model, recipe.data, recipe.diffusion, recipe.train, recipe.sample, recipe.eval):
        for key in type(section).model_fields:
            assert re.search(rf"^(#|# )?{key}( = |: )", text, re.MULTILINE), key
    for skip in get_args(ModelSpec.model_fields["skip"].annotation):
        assert skip.model_fields["name"].default in re.search(r"^# (concat.*)$", text, re.MULTILINE)[1]
    assert all(len(line) <= 120 for line in text.splitlines())


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(DiscliError, match="there already"):
        new_recipe("mine", "dis-s", resolution=32, out=path)
    assert path.read_text() == "mine"
    new_recipe("mine", "dis-s", resolution=32, out=path, overwrite=True)
    assert load_recipe(path).name == "mine"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "must know its data"),
        ({"data": Path("x.h5"), "resolution": 32}, "--res"),
        ({"data": Path("x.h5"), "num_classes": 0}, "--num-classes"),
        ({"data": Path("gone.h5")}, "gone.h5 does not exist"),
        ({"resolution": 100, "codec": "vae"}, "multiple of 8"),
        ({"resolution": 32, "name": "../up"}, r"\.\./up"),
    ],
)
def test_a_refusal_writes_nothing(tmp_path, settings, says):
    with pytest.raises(DiscliError, match=says):
        new_recipe(**{"name": "mine", "preset": "dis-s", "out": tmp_path / "mine.toml", **settings})
    assert list(tmp_path.iterdir()) == []


def test_the_presets_on_offer_are_the_presets():
    assert get_args(Preset) == tuple(PRESETS)


@pytest.fixture
def machine(monkeypatch):
    """One that does so many GFLOPs a second, and the presets that were tried on it."""
    tried = []

    def trial(recipe, device):
        tried.append(recipe.model.preset)
        gflops = sum(forward_flops(recipe).values()) / 1e9
        per_image = gflops / speed[0]
        return Trial(per_image, per_forward=per_image / 3, per_update=0.0, images=8)

    speed = [10.0]
    monkeypatch.setattr("discli.training.new_recipe.try_here", trial)
    return speed, tried


def many(tmp_path, images):
    promise = contract(num_samples=images, resolution=32)
    return write_store(tmp_path / "many.h5", some_rows(images, promise), promise)


@pytest.mark.parametrize("minutes", [3, 60, 600])
def test_a_run_takes_the_minutes_that_were_given(machine, minutes, tmp_path):
    recipe = load_recipe(new_recipe("mine", minutes=minutes, resolution=32, out=tmp_path / "mine.toml", device="cpu"))
    per_image = sum(forward_flops(recipe).values()) / 1e9 / machine[0][0]
    taken = Trial(per_image, per_image / 3, 0.0, 8).whole(recipe) / 60
    assert 0.8 * minutes < taken <= minutes


@pytest.mark.parametrize(
    ("speed", "images", "preset"),
    [(10, 2_000, "dis-xxs"), (1_000, 2_000, "dis-xs"), (1_000, 300, "dis-xxs"), (1e6, 2_000, "dis-xs")],
)
def test_the_size_is_chosen_by_speed_and_number_of_images(machine, speed, images, preset, tmp_path):
    machine[0][0] = speed
    data = many(tmp_path, images)
    recipe = load_recipe(new_recipe("mine", minutes=60, data=data, out=tmp_path / "mine.toml", device="cpu"))
    assert recipe.model.preset == preset


def test_a_fast_machine_takes_a_size_of_the_paper(machine, tmp_path):
    machine[0][0] = 1e6
    recipe = load_recipe(new_recipe("mine", resolution=32, out=tmp_path / "mine.toml", device="cpu"))
    assert recipe.model.preset == "dis-b"
    assert machine[1] == ["dis-xxs", "dis-xs", "dis-s", "dis-b"]


@pytest.mark.parametrize("minutes", [1, 60, 100_000])
@pytest.mark.parametrize("flags", [{}, {"preset": "dis-s"}, {"num_classes": 10}, {"resolution": 256}])
def test_its_settings_suit_its_length(machine, minutes, flags, tmp_path):
    written = new_recipe(
        "mine", minutes=minutes, out=tmp_path / "mine.toml", device="cpu", **{"resolution": 32} | flags
    )
    recipe = load_recipe(written)
    assert config_warnings(recipe) == []
    assert (recipe.diffusion.objective.name, recipe.diffusion.weighting.name) == ("x0-flow", "uniform")
    assert (recipe.diffusion.timesteps.name, recipe.sample.sampler.name) == ("logit-normal", "heun")
    assert recipe.train.lr_schedule.warmup_steps <= recipe.train.steps / 10
    assert recipe.train.optimizer.name == "muon"


def test_a_time_in_which_nothing_can_be_drawn_is_said(machine, tmp_path, capsys):
    machine[0][0] = 0.1
    new_recipe("mine", minutes=0.5, resolution=32, out=tmp_path / "mine.toml", device="cpu")
    said = capsys.readouterr().err
    assert "more --minutes" in said
    assert "Next: discli train" in said


def test_a_real_trial_stands_behind_it(digits_file, tmp_path, capsys):
    text = new_recipe("mine", minutes=1, data=digits_file, out=tmp_path / "mine.toml", device="cpu").read_text()
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.model.preset == "dis-xxs"
    assert "epochs of 200" in text
    assert re.search(r"^# Time: about \d+ s ", text, re.MULTILINE)
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_preset_alone_is_the_long_run_and_needs_no_trial(machine, tmp_path):
    recipe = load_recipe(new_recipe("mine", "dis-s", resolution=32, out=tmp_path / "mine.toml"))
    assert (recipe.train.steps, machine[1]) == (100_000, [])
    assert recipe.diffusion.objective.name == "x0-flow"
    assert recipe.diffusion.timesteps.mean > 0
    latents = load_recipe(new_recipe("mine", "dis-s", resolution=256, out=tmp_path / "latents.toml"))
    assert (latents.diffusion.objective.name, latents.diffusion.timesteps.mean) == ("x0-flow", 0)
