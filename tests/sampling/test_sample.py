"""Sampling: images that depend on (seed, i) alone, interruptions, refusals."""

import inspect
import io
import json
import os
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import discli
from discli.cli import main
from discli.evaluation.npz import NpzImages
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.runs.manifest import read_manifest
from discli.runtime.devices import pick_device, settle_precision
from discli.runtime.errors import DiscliError
from discli.sampling.folder import write_samples
from discli.sampling.generate import TRAJECTORY_FRAMES, denoising_trajectory, generate
from discli.sampling.plan import plan_sampling
from discli.sampling.sample import SampleOptions, sample
from discli.sampling.settings import SampleSettings
from discli.sampling.writers import PngFolder, file_name
from tests import warm

SAMPLERS_OF_EPS = ["ddpm", "ddim", "dpm-solver++", "sde-dpm-solver++", "unipc", "euler", "heun"]


@pytest.fixture(scope="session")
def run(tiny_run) -> Path:
    return tiny_run


def _images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.fixture(scope="session")
def eleven(run, tmp_path_factory) -> Path:
    return sample(run, 11, seed=3, out=tmp_path_factory.mktemp("eleven") / "samples")


def test_images_sheet_and_manifest_are_written(eleven):
    assert list(_images(eleven)) == [file_name(i) for i in range(11)]
    with Image.open(eleven / file_name(0)) as image:
        assert (image.size, image.mode) == ((8, 8), "RGB")
    with Image.open(eleven.with_name("samples.png")) as sheet:
        assert sheet.height > 3 * 64
    manifest = json.loads((eleven / "manifest.json").read_text())
    assert manifest["finished"]
    assert (manifest["n"], manifest["seed"], manifest["steps"], manifest["nfe"]) == (11, 3, 5, 10)
    assert (manifest["model_batch"], manifest["class_choice"]) == (4, "random")
    assert manifest["precision"] == settle_precision("auto", pick_device(None)).name
    assert len(manifest["classes"]) == 11
    assert manifest["recipe"]["name"] == "tiny"
    assert manifest["contract"]["class_names"][3] == "3"


@pytest.mark.parametrize("n", [1, 5, 11, 13])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_image_i_is_the_same_bytes_whatever_n_and_batch_size(run, eleven, tmp_path, n, batch_size):
    ours = _images(sample(run, n, seed=3, batch_size=batch_size, out=tmp_path / "s"))
    theirs = _images(eleven)
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def test_another_seed_gives_other_images(run, eleven, tmp_path):
    other = _images(sample(run, 4, seed=4, out=tmp_path / "s"))
    assert all(other[name] != _images(eleven)[name] for name in other)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_would_be_cut_to_another_one_is_refused_before_anything_is_written(run, tmp_path, seed):
    with pytest.raises(DiscliError, match="seed"):
        sample(run, 2, seed=seed, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_guidance_steps_and_sampler_change_the_images(run, tmp_path):
    plain = _images(sample(run, 2, cfg_scale=1.0, out=tmp_path / "plain"))
    variants = [{"cfg_scale": 4.0}, {"cfg_scale": 1.0, "steps": 9}, {"cfg_scale": 1.0, "sampler": "ddim"}]
    for number, flags in enumerate(variants):
        assert _images(sample(run, 2, out=tmp_path / str(number), **flags)) != plain


def test_guidance_of_one_is_the_class_alone_and_costs_half(run, tmp_path):
    folder = sample(run, 1, cfg_scale=1.0, out=tmp_path / "s")
    assert json.loads((folder / "manifest.json").read_text())["nfe"] == 5


def _command(run: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "discli", "sample", str(run), "-n", "11", "--seed", "3", "--out", str(out), *more]


@pytest.mark.slow
def test_killed_and_run_again_it_completes_what_is_missing(run, eleven, tmp_path):
    out = tmp_path / "s"
    process = warm.Process(*_command(run, out, "--batch-size", "4"))
    while process.poll() is None and len(list(out.glob("0*.png"))) < 4:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / file_name(1)).unlink(missing_ok=True)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("00000[4-7].png")}
    sample(run, 11, seed=3, out=out)
    assert _images(out) == _images(eleven)
    if len(kept) == 4:
        assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_and_the_last_one_finishes(run, eleven, tmp_path):
    out = tmp_path / "s"
    launched = [
        warm.Process(
            *_command(run, out), env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        )
        for rank in (0, 1)
    ]
    assert [process.wait().returncode for process in launched] == [0, 0], [each.stderr() for each in launched]
    assert _images(out) == _images(eleven)
    assert json.loads((out / "manifest.json").read_text())["finished"]
    assert (tmp_path / "s.png").is_file()


def test_a_part_alone_makes_its_range_says_so_and_does_not_finish(run, eleven, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = sample(run, 11, seed=3, format="npz", out=tmp_path / "s")
    assert not (out / "samples.npz").exists()
    assert not json.loads((out / "manifest.json").read_text())["finished"]
    said = " ".join(capsys.readouterr().err.split())
    assert "its part, 2 of 2; the others' are missing: 4 of 11 images" in said
    with pytest.raises(DiscliError, match="--overwrite with 2 processes"):
        sample(run, 11, seed=4, format="npz", out=out, overwrite=True)
    monkeypatch.setenv("RANK", "0")
    sample(run, 11, seed=3, format="npz", out=out)
    assert torch.equal(_rows_of(out / "samples.npz"), _read(eleven))


def test_in_a_batch_script_one_process_makes_all(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    out = sample(run, 5, out=tmp_path / "s")
    assert len(list(out.glob("*.png"))) == 5
    assert json.loads((out / "manifest.json").read_text())["finished"]


def _read(folder: Path) -> torch.Tensor:
    return PngFolder(folder).read(sorted(PngFolder(folder).done()))


def _rows_of(path: Path) -> torch.Tensor:
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2)


def test_npz_is_what_adms_evaluator_reads_and_is_completed_when_n_grows(run, eleven, tmp_path):
    out = tmp_path / "s"
    sample(run, 6, seed=3, format="npz", out=out)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "samples.npz"]
    sample(run, 11, seed=3, format="npz", out=out)
    with np.load(out / "samples.npz") as arrays:
        assert (arrays["arr_0"].dtype, arrays["arr_0"].shape) == (np.uint8, (11, 8, 8, 3))
        assert arrays["arr_1"].tolist() == json.loads((out / "manifest.json").read_text())["classes"]
    assert torch.equal(_rows_of(out / "samples.npz"), _read(eleven))
    assert torch.equal(torch.cat(list(NpzImages(out / "samples.npz").batches(4))), _read(eleven))


def test_zip_holds_the_same_files_as_the_folder(run, eleven, tmp_path):
    out = sample(run, 6, seed=3, format="zip", out=tmp_path / "s")
    sample(run, 11, seed=3, format="zip", out=out)
    with zipfile.ZipFile(out / "samples.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == _images(eleven)
    before = (out / "samples.zip").stat().st_mtime_ns
    sample(run, 11, seed=3, format="zip", out=out)
    assert (out / "samples.zip").stat().st_mtime_ns == before
    assert not (out / "parts").exists()


def test_none_stores_no_image_and_still_draws_the_sheet(run, eleven, tmp_path):
    out = sample(run, 11, seed=3, format="none", out=tmp_path / "s")
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    with Image.open(tmp_path / "s.png") as ours, Image.open(eleven.with_name("samples.png")) as theirs:
        assert ours.tobytes() == theirs.tobytes()


def test_the_stream_that_metrics_take_holds_the_same_images(run, eleven):
    stream = [pixels for _, pixels in generate(plan_sampling(run, seed=3), 11)]
    assert [len(batch) for batch in stream] == [4, 4, 3]
    assert torch.equal(torch.cat(stream), _read(eleven))


def test_writing_says_what_it_did_and_makes_nothing_twice(run, eleven, tmp_path):
    plan = plan_sampling(run, seed=3)
    first = write_samples(plan, 6, tmp_path / "s")
    assert (first.folder, first.sheet, first.made) == (tmp_path / "s", tmp_path / "s.png", 6)
    assert first.manifest == read_manifest(first.folder)
    assert write_samples(plan, 6, str(tmp_path / "s")).made == 0
    assert _images(first.folder).items() <= _images(eleven).items()


def test_a_notebook_sees_every_argument():
    named = inspect.signature(sample).parameters
    assert {
        *SampleSettings.__annotations__,
        *SampleOptions.__annotations__,
        "run",
        "n",
        "out",
        "of_sampler",
    } == named.keys()


@pytest.mark.slow
def test_in_a_notebook_three_lines_show_the_same_images(run, eleven):
    code = (
        "from discli import load, sample\n"
        f"model = load({str(run)!r})\n"
        "shown = sample(model, 11, seed=3)\n"
        "import sys; print(shown._repr_png_().hex())\n"
    )
    done = warm.run("-c", code)
    with (
        Image.open(io.BytesIO(bytes.fromhex(done.stdout))) as ours,
        Image.open(eleven.with_name("samples.png")) as theirs,
    ):
        assert ours.tobytes() == theirs.tobytes()
    here = discli.sample(discli.load(run), 11, seed=3)
    assert (len(here), here[0].size) == (11, (8, 8))
    assert torch.equal(here.pixels, _read(eleven))


def test_steps_are_shown_from_noise_to_the_image(run, eleven, tmp_path):
    sample(run, 4, seed=3, show_steps=True, out=tmp_path / "s")
    with Image.open(tmp_path / "s.steps.png") as strip:
        top = strip.height - (4 * 66 + 2)  # noise and five steps of the four in a group, and their names
        assert (strip.width, top > 20) == (6 * 66 + 2, True)
        assert all(np.asarray(strip)[:top, 66 * k : 66 * (k + 1)].min() < 128 for k in range(6)), "a name above each"
        last = strip.crop((5 * 66 + 2, top + 2, 6 * 66, top + 66))
    with Image.open(eleven / file_name(0)) as image:
        assert last.tobytes() == image.resize((64, 64), Image.Resampling.LANCZOS).tobytes()


@pytest.mark.parametrize("sampler", SAMPLERS_OF_EPS)
def test_frames_shown_follow_the_noise_and_not_the_steps(run, sampler):
    frames = denoising_trajectory(plan_sampling(run, {"sampler": sampler, "steps": 60, "cfg_scale": 1.0}), lambda x: x)
    steps = [int(name.split()[1]) for name, _ in frames]
    levels = [float(name.split()[-1]) for name, _ in frames]
    assert (len(frames), steps[0], steps[-1], levels[-1]) == (TRAJECTORY_FRAMES, 0, 60, 0)
    assert steps == sorted(set(steps))
    assert levels == sorted(levels, reverse=True)
    assert sum(0.1 < level < 2 for level in levels) >= 5, "where an image appears"


def test_a_sheet_shows_all_that_it_has_room_for_or_says_how_many(run, tmp_path, capsys):
    def cells(n: int, **settings) -> int:
        out = sample(run, n, steps=1, cfg_scale=1.0, out=tmp_path / f"{n}{list(settings)}", **settings)
        with Image.open(out.with_name(out.name + ".png")) as sheet:
            pixels = np.asarray(sheet.convert("L"))[:, -(sheet.width // 66) * 66 :]
        # A cell of an image is not all white.
        return sum(
            bool((pixels[row + 2 : row + 66, column : column + 64] < 255).any())
            for row in range(0, pixels.shape[0] - 2, 66)
            for column in range(0, pixels.shape[1] - 2, 66)
        )

    assert cells(48) == 48
    assert "shows" not in capsys.readouterr().err
    assert cells(48, classes=[3, 3, 3, 3, 3, 7]) == 48, "many of one class"
    assert "shows" not in capsys.readouterr().err
    assert cells(48, grid=(2, 3)) == 6
    assert "shows 6 of 48 images" in capsys.readouterr().err


def test_without_out_other_settings_go_beside_and_the_same_go_on(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["sample", str(run), "-n", "3", "--steps", "2"]

    def discli_says(*more: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["discli", *command, *more])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        found = capsys.readouterr()
        return found.out.strip(), found.err

    assert discli_says()[0] == "samples"
    first = _images(tmp_path / "samples")
    out, told = discli_says("--seed", "1")
    assert out == "samples-2"
    assert "seed 0, not 1" in told
    assert "go to samples-2" in told
    assert discli_says("--seed", "2")[0] == "samples-3"
    assert discli_says("--seed", "1", "-n", "5")[0] == "samples-2", "goes on"
    assert discli_says()[0] == "samples"
    assert _images(tmp_path / "samples") == first
    assert len(_images(tmp_path / "samples-2")) == 5
    assert (tmp_path / "samples-2.png").is_file()
    assert discli_says("--seed", "4", "--overwrite")[0] == "samples"
    assert _images(tmp_path / "samples") != first


def test_a_set_is_gone_on_with_from_another_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    weak = Path("runs/tiny/checkpoints/00000030")
    out = sample(Path("runs/tiny"), 2, cfg_scale=2.0, autoguidance=weak, out=tmp_path / "s")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["run"] == str(run.resolve())
    assert manifest["checkpoint"] == str((run / "checkpoints" / "00000030").resolve())
    monkeypatch.chdir(run.parent)
    sample("tiny", 4, cfg_scale=2.0, autoguidance=f"../{weak}", out=out)
    assert len(_images(out)) == 4

    # A manifest of before, with names as they were typed there.
    old = manifest | {"run": "runs/tiny", "checkpoint": str(weak), "autoguidance_checkpoint": str(weak)}
    (out / "manifest.json").write_text(
        json.dumps(old | {"guidance": {"name": "autoguidance", "checkpoint": str(weak)}})
    )
    monkeypatch.chdir(run.parents[1])
    sample("runs/tiny", 5, cfg_scale=2.0, autoguidance=weak, out=out)
    assert len(_images(out)) == 5


def test_a_weaker_network_that_changed_at_its_place_does_not_guide_on(run, tmp_path):
    weak = Path(shutil.copy(_weights(run), tmp_path / "weak.safetensors"))
    out = sample(run, 2, cfg_scale=2.0, autoguidance=weak, out=tmp_path / "s")
    _train_on(weak)
    with pytest.raises(DiscliError, match="autoguidance_sha256"):
        sample(run, 4, cfg_scale=2.0, autoguidance=weak, out=out)
    assert len(_images(out)) == 2


def test_an_exported_file_is_its_own_run(run, tmp_path, monkeypatch):
    shutil.copy(_weights(run), tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    manifest = json.loads((sample("mine.safetensors", 1, out="s") / "manifest.json").read_text())
    assert manifest["run"] == manifest["checkpoint"] == str((tmp_path / "mine.safetensors").resolve())


def test_images_of_other_weights_at_the_same_place_are_not_completed(run, tmp_path):
    file = Path(shutil.copy(_weights(run), tmp_path / "mine.safetensors"))
    out = sample(file, 2, out=tmp_path / "s")
    assert read_manifest(out).model_sha256 == read_manifest(sample(run, 2, out=tmp_path / "other")).model_sha256
    _train_on(file)
    with pytest.raises(DiscliError, match="model_sha256"):
        sample(file, 3, out=out)


def test_balanced_classes_take_turns_and_the_sheet_has_a_row_for_each(run, tmp_path):
    folder = sample(run, 20, classes="balanced", grid=(3, 2), out=tmp_path / "s")
    assert json.loads((folder / "manifest.json").read_text())["classes"] == list(range(10)) * 2
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.height == 3 * 66 + 2
        assert sheet.width > 2 * 66 + 2  # and the names


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "dpm-solver++"},
        {"sampler": "sde-dpm-solver++"},
        {"sampler": "unipc"},
        {"sampler": "heun"},
        {"sampler": "ddim", "eta": 1.0},
        {"sampler": {"name": "ddim", "eta": 0.5}},
        {"guided_channels": "all", "cfg_interval": (0.3, 3.0)},
        {"cfg_schedule": "cosine"},
        {"precision": "bf16"},
    ],
)
def test_every_choice_is_made_reproducibly_whatever_n(run, tmp_path, settings):
    settings = {"precision": "fp32", **settings}
    few = sample(run, 2, seed=3, **settings)
    many = sample(run, 6, seed=3, **settings)
    assert torch.equal(few.pixels, many.pixels[:2])
    assert not torch.equal(few.pixels, sample(run, 2, seed=3, precision="fp32").pixels)


def test_autoguidance_takes_a_weaker_checkpoint_and_is_named_in_the_manifest(run, tmp_path):
    weak = run / "checkpoints" / "00000030"
    out = sample(run, 2, seed=3, autoguidance=weak, cfg_scale=3.0, out=tmp_path / "s")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["guidance"] == {"name": "autoguidance", "checkpoint": str(weak)}
    assert manifest["nfe"] == 10
    # Guided away from itself, a model is as it is without guidance.
    assert torch.equal(_read(out), sample(run, 2, seed=3, cfg_scale=1.0).pixels)


def test_classes_by_name_and_number_are_taken_in_turn(run, tmp_path):
    folder = sample(run, 5, classes=["7", "3"], out=tmp_path / "s")
    assert json.loads((folder / "manifest.json").read_text())["classes"] == [7, 3, 7, 3, 7]


@pytest.mark.parametrize("given", ["10", "-1", "dog", ""])
def test_classes_that_do_not_exist_are_refused(run, tmp_path, given):
    with pytest.raises(DiscliError, match="no such class"):
        sample(run, 1, classes=[given], out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_with_other_things_is_refused_and_nothing_in_it_lost(run, tmp_path):
    out = tmp_path / "holiday"
    out.mkdir()
    (out / "000000.png").write_bytes(b"the beach")
    with pytest.raises(DiscliError, match="holds other files"):
        sample(run, 1, out=out)
    assert (out / "000000.png").read_bytes() == b"the beach"


def test_other_settings_into_the_same_folder_are_refused_unless_overwritten(run, tmp_path):
    out = sample(run, 3, out=tmp_path / "s")
    before = _images(out)
    with pytest.raises(DiscliError, match=r"samples with seed 0, not 1\. .* --overwrite"):
        sample(run, 3, seed=1, out=out)
    with pytest.raises(DiscliError, match="samples of another sampler"):
        sample(run, 3, sampler="euler", out=out)
    with pytest.raises(DiscliError, match=r"samples with steps \d+, not 3\."):
        sample(run, 3, steps=3, out=out)
    assert _images(out) == before
    sample(run, 2, seed=1, out=out, overwrite=True)
    assert len(_images(out)) == 2


@pytest.mark.parametrize("format", ["png", "npz", "zip"])
def test_more_of_the_same_images_are_never_deleted_for_fewer(run, tmp_path, format):
    out = sample(run, 5, out=tmp_path / "s", format=format)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DiscliError, match="5 of these images, more than 2"):
        sample(run, 2, out=out, format=format)
    beside = write_samples(plan_sampling(run), 2, out, format=format, or_beside=True)
    assert beside.folder == tmp_path / "s-2"
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert read_manifest(sample(run, 2, out=out, format=format, overwrite=True)).n == 2


def test_without_a_run_the_newest_is_taken_and_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[1])
    sample(None, 1, out=tmp_path / "s")
    assert "Newest run: runs/tiny" in capsys.readouterr().err


def test_without_any_run_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiscliError, match="discli train"):
        sample(None, 1)


def test_an_unconditional_model_refuses_guidance_and_classes(tmp_path, run):
    metadata = _metadata(run)
    recipe = json.loads(metadata["recipe"])
    recipe["model"]["num_classes"] = 0
    recipe["sample"]["cfg_scale"] = 1.0
    weights = DiS.from_recipe(parse_recipe(recipe, "test")).state_dict()
    save_file(weights, tmp_path / "uncond.safetensors", metadata=metadata | {"recipe": json.dumps(recipe)})
    model = discli.load(tmp_path / "uncond.safetensors")
    assert sample(model, 2).classes is None
    with pytest.raises(DiscliError, match=r"--cfg-scale 2: this model is unconditional.*\.$"):
        sample(model, 2, cfg_scale=2.0)
    with pytest.raises(DiscliError, match="unconditional"):
        sample(model, 2, classes="1")


def _weights(run: Path) -> Path:
    return run / "checkpoints" / "00000030" / "ema.safetensors"


def _train_on(file: Path) -> None:
    """Other weights in the same file."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: tensor + 0.01 for name, tensor in load_file(file).items()}, file, metadata)


def _metadata(run: Path) -> dict[str, str]:
    with safe_open(_weights(run), "pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sampler": "euler-maruyama"}, "does not fit"),
        ({"sampler": "dmp"}, "Allowed"),
        ({"steps": 1001}, "more than"),
        ({"sampler": "dpm-solver++", "eta": 1.0}, "unknown key"),
        ({"cfg_interval": (3.0, 1.0)}, "must be below"),
        ({"autoguidance": "nowhere", "cfg_scale": 2.0}, "No checkpoint in nowhere"),
        ({"autoguidance": "nowhere", "cfg_scale": 1.0}, "changes nothing"),
        ({"device": "cuda:99"}, "no such device"),
        ({"device": "gpu"}, "no such device"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(run, tmp_path, settings, says):
    with pytest.raises(DiscliError, match=says) as caught:
        sample(run, 2, out=tmp_path / "s", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("damage", ["truncated", "pickle", "other-shapes", "no-recipe"])
def test_a_checkpoint_that_is_not_one_is_refused(run, tmp_path, damage):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    file = copy / "checkpoints" / "00000030" / "ema.safetensors"
    match damage:
        case "truncated":
            os.truncate(file, 2000)
        case "pickle":
            file.write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
        case "other-shapes":
            weights = {name: tensor[..., :1].contiguous() for name, tensor in load_file(file).items()}
            metadata = {"recipe": json.dumps(json.loads((run / "run.json").read_text())["recipe"])}
            save_file(weights, file, metadata=metadata)
        case "no-recipe":
            save_file({"w": torch.zeros(1)}, file)
    with pytest.raises(DiscliError) as caught:
        sample(copy, 1, out=tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_pickle_is_not_even_opened(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    with pytest.raises(DiscliError, match="could run code"):
        sample(tmp_path / "model.pt", 1)
    assert not (tmp_path / "exploded").exists()


def test_out_may_not_be_a_file(run, tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(DiscliError, match="is a file"):
        sample(run, 1, out=tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_a_checkpoints_folder_can_be_given_without_its_run(run, eleven, tmp_path):
    lonely = tmp_path / "lonely"
    shutil.copytree(run / "checkpoints" / "00000030", lonely)
    assert _images(sample(lonely, 3, seed=3, out=tmp_path / "s"))[file_name(2)] == _images(eleven)[file_name(2)]
