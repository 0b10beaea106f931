"""Training on images that are not square, and on a file of several shapes."""

import numpy as np
import pytest

from discli.data.encode import encode
from discli.data.store import open_store
from discli.recipe import check_fits, load_recipe
from discli.recipe.size import Size
from discli.runs.layout import RunFolder
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.sampling.sample import sample
from discli.training.train import train
from tests.data.makers import pixels, saved, write_zip
from tests.tiny_run import arguments, content, losses, together

SIZES = (Size(8, 8), Size(6, 10), Size(10, 6))
SHAPED = [
    "model.num_classes=2",
    'model.scan_order="zigzag"',
    'model.grid_conv="depthwise"',
    'model.mixer=["mamba", "attention"]',
    "data.holdout=0.2",
    "train.holdout_every=6",
    "train.route.outer=1",
    'diffusion.objective="flow"',
    'sample.sampler="euler"',
    "diffusion.contrastive=0.05",
]


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaped")
    shapes = [(20, 20), (30, 18), (18, 30), (20, 21)]
    files = {f"{'ab'[k % 2]}/{k:02d}.png": saved(pixels(k, *shapes[k % 4])) for k in range(60)}
    return encode(write_zip(folder / "images.zip", files), SIZES, out=folder / "shaped.h5", workers=0)


@pytest.fixture(scope="module")
def whole(recipe, shaped, tmp_path_factory):
    return train(recipe, data=shaped, out=tmp_path_factory.mktemp("whole") / "run", overrides=SHAPED)


def test_a_run_on_several_shapes_resumes_to_the_bit(whole, recipe, shaped, tmp_path):
    run = tmp_path / "run"
    train(recipe, data=shaped, out=run, overrides=[*SHAPED, "train.steps=6"])
    train(recipe, data=shaped, out=run, overrides=SHAPED)
    assert content(run) == content(whole)
    assert losses(run) == losses(whole)
    measured = [read_log(RunFolder(folder).log("holdout"))[-1]["loss_held_out"] for folder in (run, whole)]
    assert measured[0] == measured[1]


@pytest.mark.slow
def test_two_processes_see_the_batches_of_one(whole, recipe, shaped, tmp_path):
    together(*arguments(recipe, shaped, tmp_path / "run", *SHAPED))
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-4)


def test_a_run_on_several_shapes_draws_any_of_them(whole):
    assert sample(whole, 2).pixels.shape == (2, 3, 8, 8)
    tall = sample(whole, 2, size=(10, 6)).pixels
    assert tall.shape == (2, 3, 10, 6)
    assert (sample(whole, 3, size=(10, 6)).pixels[:2] == tall).all()


def test_an_image_to_begin_from_has_the_nearest_shape_unless_told_otherwise(whole):
    for height, width, nearest in ((30, 18, (10, 6)), (18, 30, (6, 10)), (20, 19, (8, 8))):
        begin = np.zeros((height, width, 3), np.uint8)
        assert sample(whole, 1, init=begin).pixels.shape[2:] == nearest
    assert sample(whole, 1, init=np.zeros((30, 18, 3), np.uint8), size=8).pixels.shape[2:] == (8, 8)


def test_sizes_that_do_not_divide_into_patches_are_refused(whole, recipe, shaped):
    with pytest.raises(DiscliError, match="--size 9x6"):
        sample(whole, 1, size=(9, 6))
    with pytest.raises(DiscliError, match="6x10 px"):
        check_fits(load_recipe(recipe, ["model.patch_size=4", "model.num_classes=2"]), open_store(shaped).contract, "a")


def test_every_step_is_drawn_in_one_shape(shaped):
    store = open_store(shaped)
    assert np.bincount(store.shapes).tolist() == [30, 15, 15]


def test_a_wide_run_draws_wide_images_and_previews(recipe, shaped, tmp_path):
    images = shaped.with_name("images.zip")
    data = encode(images, Size(6, 10), out=tmp_path / "wide.h5", workers=0)
    settings = ["data.resolution=[6, 10]", "model.num_classes=2", "train.preview_every=12", "train.preview_count=4"]
    run = train(recipe, data=data, out=tmp_path / "run", overrides=settings)
    assert RunFolder(run).preview(12).is_file()
    assert sample(run, 2).pixels.shape == (2, 3, 6, 10)
