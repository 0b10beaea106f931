"""Samples that begin from images, or lie between two: kept promises, the manifest, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

import discli
from discli.cli import main
from discli.data.images import crop
from discli.diffusion.edit import Edit
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from discli.sampling.edit import EditSettings
from discli.sampling.generate import generate_latents
from discli.sampling.plan import plan_sampling
from discli.sampling.sample import sample
from tests.sampling.test_export import latent_model


@pytest.fixture(scope="module")
def model(tiny_run):
    return discli.load(tiny_run)


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return discli.load(latent_model(tmp_path_factory.mktemp("latent")))


def _image(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _mask(path: Path, size: tuple[int, int] = (8, 8)) -> Path:
    """The lower half, from the middle on: to be drawn."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[size[1] // 2 :] = 255
    Image.fromarray(pixels).save(path)
    return path


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _manifest(folder: Path):
    return json.loads((folder / "manifest.json").read_text())


def _with_objective(model, objective: str, sampler: str):
    """Another objective's model of the same data, untrained."""
    tree = model.recipe.model_dump(mode="json")
    tree["diffusion"]["objective"], tree["sample"]["sampler"] = objective, sampler
    recipe = parse_recipe(tree, "test")
    torch.manual_seed(0)
    return replace(model, network=DiS.from_recipe(recipe).eval().requires_grad_(False), recipe=recipe)


@pytest.fixture
def photo(tmp_path) -> Path:
    return _image(tmp_path / "photo.png")


@pytest.fixture
def mask(tmp_path) -> Path:
    return _mask(tmp_path / "mask.png")


def test_strength_one_is_plain_sampling_and_little_strength_changes_little(model, photo):
    plain = sample(model, 5, seed=3)
    assert torch.equal(sample(model, 5, seed=3, init=photo, strength=1.0).pixels, plain.pixels)
    given = _pixels(photo).double()
    near, far = (sample(model, 5, init=photo, strength=s, steps=50).pixels.double() for s in (0.02, 0.9))
    assert (near - given).abs().mean() < 10 < (far - given).abs().mean()


@pytest.mark.parametrize("kind", ["model", "latent"])
def test_with_no_step_taken_the_image_comes_back_as_the_codec_has_it(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    side = model.contract.resolution.height
    photo = _image(tmp_path / "photo.png", size=(side, side))
    plan = plan_sampling(model, edit=EditSettings(init=photo))
    nothing = Edit(plan.given.x0, strength=0.0)
    object.__setattr__(plan.given, "edit_of", lambda members: nothing)
    (_, x0), *_ = generate_latents(plan, 1)
    codec = model.load_codec()
    there = model.contract.codec.to_model_space(codec.encode(_pixels(photo)[None]))
    assert torch.equal(codec.decode(x0), codec.decode(there))
    if kind == "model":
        assert torch.equal(codec.decode(x0)[0], _pixels(photo))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpm-solver++", "unipc"])
def test_what_is_not_drawn_stays_to_the_bit_and_no_image_depends_on_the_others(model, photo, mask, sampler):
    settings = {"init": photo, "mask": mask, "resample": 2, "sampler": sampler, "seed": 3}
    many = sample(model, 6, **settings).pixels
    assert torch.equal(many[:, :, :4], _pixels(photo)[None, :, :4].expand(6, -1, -1, -1))
    assert all((image[:, 4:] != _pixels(photo)[:, 4:]).any() for image in many)
    assert torch.equal(sample(model, 2, **settings, batch_size=1).pixels, many[:2])
    assert not torch.equal(many[0], many[1])


def test_a_mask_is_what_was_painted_white_on_a_transparent_layer_too(model, photo, mask, tmp_path):
    with Image.open(mask) as image:
        painted = image.convert("L")
    layer = Image.new("RGBA", painted.size, (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), mask=painted)
    layer.save(tmp_path / "layer.png")
    wanted = sample(model, 1, init=photo, mask=mask).pixels
    for given in (tmp_path / "layer.png", layer):
        assert torch.equal(sample(model, 1, init=photo, mask=given).pixels, wanted)


def test_of_latents_too_what_is_not_drawn_stays_to_the_bit(latent, tmp_path):
    """The mask's edge, at row 7, lies within a cell of the latent."""
    photo = _image(tmp_path / "photo.png", size=(16, 16))
    painted = np.zeros((16, 16), np.uint8)
    painted[7:] = 255
    found = sample(latent, 3, init=photo, mask=Image.fromarray(painted)).pixels
    assert torch.equal(found[:, :, :7], _pixels(photo)[None, :, :7].expand(3, -1, -1, -1))
    assert (found[:, :, 7:] != _pixels(photo)[None, :, 7:]).any()
    plan = plan_sampling(latent, edit=EditSettings(init=photo, mask=Image.fromarray(painted)))
    side = plan.given.cells.shape[-1]
    assert side == latent.recipe.input_size.width
    assert plan.given.cells[0, 0, :, 0].tolist() == [row >= 7 // (16 // side) for row in range(side)]
    assert sample(latent, 2, init=photo, strength=0.5).pixels.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("objective", "sampler", "inverts"),
    [("v", "ddpm", "ddim"), ("x0", "ddim", "ddim"), ("flow", "heun", "heun"), ("x0-flow", "euler-maruyama", "euler")],
)
def test_every_objective_is_edited(model, photo, mask, objective, sampler, inverts, tmp_path):
    other = _with_objective(model, objective, sampler)
    painted = sample(other, 2, init=photo, mask=mask).pixels
    assert torch.equal(painted[:, :, :4], _pixels(photo)[None, :, :4].expand(2, -1, -1, -1))
    plain = sample(other, 1, seed=2, classes=[3]).pixels
    assert torch.equal(sample(other, 1, seed=2, classes=[3], init=photo, strength=1.0).pixels, plain)
    ends = sample(other, 2, seed=2, classes=[3], between="noises").pixels.int()
    assert (ends[0] - plain[0]).abs().max() <= 1
    out = sample(other, init=photo, invert=True, classes=[3], out=tmp_path / "s")
    assert _manifest(out)["sampler"]["name"] == inverts


def test_the_manifest_names_the_images_and_only_the_same_are_gone_on_with(model, photo, mask, tmp_path):
    out = sample(model, 2, init=photo, mask=mask, strength=0.8, out=tmp_path / "s")
    edit = _manifest(out)["edit"]
    assert [one["name"] for one in edit["init"]] == ["photo.png"]
    assert (edit["mask"]["name"], edit["strength"], edit["invert"]) == ("mask.png", 0.8, False)
    assert len(edit["init"][0]["sha256"]) == 64
    first = (out / "000001.png").read_bytes()
    renamed = photo.rename(tmp_path / "renamed.png")
    sample(model, 5, init=renamed, mask=mask, strength=0.8, out=out)
    assert len(list(out.glob("0*.png"))) == 5
    assert (out / "000001.png").read_bytes() == first
    assert torch.equal(sample(model, 5, init=renamed, mask=mask, strength=0.8).pixels[4], _pixels(out / "000004.png"))
    other = _image(tmp_path / "other.png", seed=1)
    for change in ({"init": other}, {"strength": 0.5}, {"mask": None}):
        with pytest.raises(DiscliError, match="another edit"):
            sample(model, 5, **{"init": renamed, "mask": mask, "strength": 0.8, **change}, out=out)
    with pytest.raises(DiscliError, match="holds samples"):
        sample(model, 5, out=out)


def test_images_of_another_size_are_cropped_as_the_training_images_were(model, tmp_path, capsys):
    photo, mask = _image(tmp_path / "wide.png", size=(40, 24)), _mask(tmp_path / "mask.png", (40, 24))
    with Image.open(photo) as image:
        expected = torch.from_numpy(crop(image, Size(8, 8), "adm").copy()).permute(2, 0, 1)
    found = sample(model, 2, init=photo, mask=mask).pixels
    assert torch.equal(found[:, :, :3], expected[None, :, :3].expand(2, -1, -1, -1))
    assert "40 x 24 pixels, brought to 8 x 8" in " ".join(capsys.readouterr().err.split())


def test_of_several_images_one_each_is_drawn_and_one_in_memory_is_as_its_file(model, tmp_path):
    (tmp_path / "some").mkdir()
    files = [_image(tmp_path / "some" / f"{name}.png", seed) for seed, name in enumerate("bca")]
    found = sample(model, init=tmp_path / "some", mask=_mask(tmp_path / "mask.png")).pixels
    assert len(found) == 3
    for image, file in zip(found, sorted(files), strict=True):
        assert torch.equal(image[:, :4], _pixels(file)[:, :4])
    opened = [Image.open(file) for file in sorted(files)]
    assert torch.equal(sample(model, init=opened).pixels, sample(model, init=tmp_path / "some").pixels)
    arrays = np.stack([np.asarray(image) for image in opened])
    assert torch.equal(sample(model, init=arrays).pixels, sample(model, init=opened).pixels)


def test_arrays_are_images_and_masks(model, photo, mask):
    pixels, white = (np.asarray(Image.open(path).convert(mode)) for path, mode in ((photo, "RGB"), (mask, "L")))
    wanted = sample(model, 1, init=photo, mask=mask).pixels
    for given in (white, white > 0):
        assert torch.equal(sample(model, 1, init=pixels, mask=given).pixels, wanted)


_NO_YCBCR = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12 reads none that it wrote")


@pytest.mark.parametrize("mode", ["RGB", "CMYK", pytest.param("YCbCr", marks=_NO_YCBCR), "L", "1"])
def test_one_in_memory_may_have_any_mode_and_lie_on_its_side(model, tmp_path, mode):
    exif = Image.Exif()
    exif[0x112] = 6
    with Image.open(_image(tmp_path / "one.png")) as image:
        image.convert(mode).save(tmp_path / "one.tif", exif=exif)
    with Image.open(tmp_path / "one.tif") as image:
        made = [sample(model, 1, init=given, steps=4) for given in (image, tmp_path / "one.tif")]
    assert torch.equal(*(images.pixels for images in made))


def test_one_in_memory_without_pixels_or_a_range_of_them_is_refused(model):
    for image in (Image.new("F", (8, 8)), Image.new("RGB", (0, 8)), np.zeros((8, 8, 3)), torch.zeros(3, 8, 8), [None]):
        with pytest.raises(DiscliError):
            sample(model, 1, init=image)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_between_two_noises_the_ends_are_plain_samples(model, sampler):
    plain = sample(model, 2, classes=[3], seed=5, sampler=sampler).pixels.int()
    found = sample(model, 7, classes=[3], seed=5, sampler=sampler, between="noises")
    # Images at other places of a group may differ in the last bits.
    assert (found.pixels[[0, -1]].int() - plain).abs().max() <= 1
    assert found.classes == [3] * 7
    steps = (found.pixels[1:].double() - found.pixels[:-1].double()).square().mean((1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < (plain[1] - plain[0]).double().square().mean()


def test_between_two_classes_the_ends_are_plain_samples_in_one_noise(model, tmp_path):
    first, second = (sample(model, 1, classes=[c], seed=5).pixels[0].int() for c in (3, 8))
    out = sample(model, 6, classes=[3, 8], seed=5, between="classes", out=tmp_path / "s")
    assert (_pixels(out / "000000.png").int() - first).abs().max() <= 1
    assert (_pixels(out / "000005.png").int() - second).abs().max() <= 1
    assert (first - second).abs().max() > 1
    manifest = _manifest(out)
    assert manifest["between"] == {"what": "classes", "frames": 6}
    assert (manifest["classes"], manifest["class_choice"]) == (None, [3, 8])
    with Image.open(tmp_path / "s.gif") as gif:
        assert (gif.n_frames, gif.size) == (10, (64, 64))
    with Image.open(tmp_path / "s.png") as strip:
        assert strip.size == (6 * 66 + 2, 66 + 2)
    with pytest.raises(DiscliError, match="another between"):
        sample(model, 7, classes=[3, 8], seed=5, between="classes", out=out)
    assert torch.equal(model.network.class_embed.weight, discli.load(model.checkpoint).network.class_embed.weight)


def test_an_inverted_image_comes_back_the_better_the_more_steps(model, photo, tmp_path, capsys):
    errors = []
    for steps in (10, 100):
        out = sample(model, init=photo, invert=True, classes=[3], steps=steps, cfg_scale=1.0, out=tmp_path / f"{steps}")
        manifest = _manifest(out)
        errors.append(manifest["reconstruction_error"])
        assert (manifest["n"], manifest["sampler"]["name"], manifest["nfe"]) == (1, "ddim", 2 * steps)
        found = (_pixels(out / "000000.png").double() - _pixels(photo).double()).square().mean().sqrt()
        assert errors[-1] == pytest.approx(float(found))
        assert f"an error of {errors[-1]:.2f} of 255" in " ".join(capsys.readouterr().err.split())
    assert errors[1] < errors[0] / 2


def test_an_inverted_image_is_drawn_as_other_classes(model, photo):
    drawn = sample(model, init=photo, invert=True, classes=[3, 8], steps=30, cfg_scale=1.0).pixels
    alone = sample(model, init=photo, invert=True, classes=[3], steps=30, cfg_scale=1.0).pixels
    assert torch.equal(drawn[:1], alone)
    assert not torch.equal(drawn[1], drawn[0])


def test_diffusers_pipeline_edits_the_same(tiny_run, model, photo, mask, tmp_path):
    from diffusers import DiffusionPipeline

    from discli.sampling.export import export_diffusers

    folder = export_diffusers(model, tmp_path / "exported")
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    with Image.open(photo) as opened:
        found = pipeline(3, image=opened, mask_image=mask, strength=0.7, output_type="pt").images
    assert torch.equal(found, sample(model, 3, init=photo, mask=mask, strength=0.7).pixels.float() / 255)
    assert len(pipeline(between="classes", classes=["3", "8"]).images) == 16
    with pytest.raises(DiscliError) as caught:
        pipeline(mask_image=mask)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--init", "nowhere.png"], "nowhere.png: no such image"),
        (["--init", "text.png"], "not an image"),
        (["--init", "empty"], "no images in this folder"),
        (["--init", "a.png", "--strength", "0"], "--strength 0"),
        (["--init", "a.png", "--strength", "1.5"], "--strength 1.5"),
        (["--init", "a.png", "--strength", "nan"], "--strength nan"),
        (["--init", "a.png", "--mask", "large.png"], "differ in size: 9 x 9 and 8 x 8"),
        (["--init", "a.png", "--mask", "black.png"], "no white"),
        (["--init", "a.png", "--resample", "3"], "--resample 3"),
        (["--init", "a.png", "--invert"], "of which class"),
        (["--init", "a.png", "--invert", "--classes", "3", "--sampler", "ddpm"], "ddpm draws noise"),
        (["--init", "a.png", "--invert", "--classes", "3", "--sampler", "ddim", "--eta", "1"], "ddim draws noise"),
        (["--init", "a.png", "--invert", "--classes", "3", "--mask", "black.png"], "--invert draws all"),
        (["--init", "a.png", "--between", "noises"], "not images"),
        (["--init", "a.png", "--show-steps"], "--show-steps"),
        (["--init", "some", "-n", "4"], "-n 4 with 2 images"),
        (["--mask", "a.png"], "--mask goes with"),
        (["--strength", "0.5"], "--strength goes with"),
        (["--invert"], "of which image"),
        (["--between", "classes"], "--classes names none"),
        (["--between", "classes", "--classes", "1,2,3"], "names 3"),
        (["--between", "noises", "--classes", "1,2"], "keeps one class"),
        (["--between", "noises", "-n", "1"], "nothing lies between"),
    ],
)
def test_what_cannot_be_is_two_lines_and_nothing_is_written(tiny_run, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    _image(tmp_path / "a.png")
    _image(tmp_path / "large.png", size=(9, 9))
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("a photo")
    (tmp_path / "empty").mkdir()
    (tmp_path / "some").mkdir()
    for name in "ab":
        _image(tmp_path / "some" / f"{name}.png")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", ["discli", "sample", str(tiny_run), *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()
    complaint = next(k for k, line in enumerate(said) if line.startswith("discli: "))
    assert says in said[complaint]
    assert len(said) == complaint + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
