"""eval-fid from files to numbers: equal to torch-fidelity's on the same folders, and clear about what it refuses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from discli.cli.eval_fid import eval_fid
from discli.cli.scores_table import print_scores
from discli.data.encode import encode
from discli.evaluation.classes import numbered
from discli.evaluation.evaluate import evaluate, make_ref
from discli.evaluation.features.inception import Inception, bare_inception
from discli.evaluation.features.random import RANDOM_FD, RandomFeatures
from discli.evaluation.reference import check_statistics, open_reference
from discli.recipe import load_recipe
from discli.runs.eval_result import read_eval_result
from discli.runtime.errors import DiscliError
from tests.evaluation.cases import drawn_images
from tests.tiny_run import launch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))


def save_folder(folder: Path, images: torch.Tensor, classes: int = 0) -> Path:
    for index, image in enumerate(images):
        path = folder / (f"class{index % classes}" if classes else "") / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
    return folder


def save_samples(folder: Path, images: torch.Tensor, data_file: Path | None, **changes) -> Path:
    """A folder as discli sample writes it, with its contact sheet left inside to be ignored."""
    save_folder(folder, images)
    Image.new("RGB", (99, 99)).save(folder / "sheet.png")
    manifest = {
        "discli_version": "0",
        "torch_version": "0",
        "device": "cpu",
        "run": "runs/discs",
        "checkpoint": "runs/discs/checkpoints/00000100",
        "step": 100,
        "model_sha256": "0" * 64,
        "data_file": data_file and str(data_file),
        "n": len(images),
        "seed": 0,
        "sampler": {"name": "ddim", "eta": 0.0},
        "steps": 25,
        "nfe": 50,
        "cfg_scale": 1.5,
        "precision": "fp32",
        "ema": {"name": "constant", "decay": 0.999},
        "classes": [index % 2 for index in range(len(images))],
        "recipe": load_recipe("quickstart").model_dump(mode="json"),
        "contract": {
            "discli_version": "0",
            "codec": "rgb",
            "resolution": images.shape[-1],
            "crop": "adm",
            "dtype": "uint8",
            "flip_stored": False,
            "num_samples": 60,
            "class_names": ["class0", "class1"],
            "source": "discs",
            "source_sha256": "",
        },
        "finished": True,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """(samples, reference): 200 and 240 drawn images of 12 px."""
    root = tmp_path_factory.mktemp("images")
    return save_folder(root / "samples", drawn_images(200, 12, 0)), save_folder(root / "ref", drawn_images(240, 12, 1))


@pytest.fixture(scope="module")
def data_file(tmp_path_factory) -> Path:
    """240 labelled images of 12 px, encoded as a user would."""
    root = tmp_path_factory.mktemp("data")
    return encode(save_folder(root / "discs", drawn_images(240, 12, 1), 2), 12, out=root / "discs.h5", workers=0)


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> Path:
    """A full-size Inception with random weights."""
    torch.manual_seed(0)
    network = bare_inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


class RandomForTorchFidelity(FeatureExtractorBase):
    """Our random features in torch-fidelity's own pipeline."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)
        self.network = RandomFeatures()

    @staticmethod
    def get_provided_features_list():
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "features"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        return (self.network(images)["features"],)


def test_scores_equal_torch_fidelitys_own_pipeline_on_the_same_folders(folders):
    samples, ref = folders
    register_feature_extractor("discli-random", RandomForTorchFidelity)
    theirs = calculate_metrics(
        input1=str(samples),
        input2=str(ref),
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=200,
        feature_extractor="discli-random",
        save_cpu_ram=True,
        verbose=False,
    )
    scores = evaluate(samples, ref, features="random", metrics=["all"]).scores
    assert scores[RANDOM_FD] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert scores["KID (random features)"] == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-5)
    assert scores["precision (random features)"] == pytest.approx(theirs["precision"])
    assert scores["recall (random features)"] == pytest.approx(theirs["recall"])


def distance_of_few(a: torch.Tensor, b: torch.Tensor) -> float:
    """The Frechet distance of two sets of fewer rows than dimensions: tr (S_a S_b)^(1/2) is the nuclear norm of
    A B^T with the centred rows A / sqrt(n - 1), B / sqrt(m - 1)."""
    a, b = a.double(), b.double()
    centred = [(x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    gap = a.mean(dim=0) - b.mean(dim=0)
    traces = sum((x**2).sum() for x in centred)
    return float(gap @ gap + traces - 2 * torch.linalg.svdvals(centred[0] @ centred[1].T).sum())


@pytest.mark.slow
def test_inception_scores_equal_those_of_torch_fidelitys_network_and_functions(inception, tmp_path):
    images = [drawn_images(16, 12, seed) for seed in (2, 3)]
    small = [save_folder(tmp_path / str(i), p) for i, p in enumerate(images)]
    network = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=inception)
    with torch.inference_mode():
        (pool, logits), (pool_ref, _) = (network(p) for p in images)

    result = evaluate(*small, weights=inception, metrics=["fid", "is", "kid", "prc"])
    scores = result.scores
    assert scores["FID"] == pytest.approx(distance_of_few(pool, pool_ref), rel=1e-4)
    assert scores["IS"] == pytest.approx(isc_features_to_metric(logits)["inception_score_mean"], rel=1e-6)
    kid = kid_features_to_metric(pool, pool_ref, kid_subset_size=16, verbose=False)
    assert scores["KID"] == pytest.approx(kid["kernel_inception_distance_mean"], abs=1e-5)
    assert result.convention.name == "torch-fidelity"
    assert result.convention.inception_score == "mean over 10 shuffled splits"
    assert any("16 samples in 2,048 feature dimensions: the covariance is singular" in w for w in result.warnings)

    ref = make_ref(small[1], tmp_path / "ref.npz", weights=inception)
    rows = [Inception(inception)(p)["spatial"] for p in images]
    again = evaluate(small[0], ref, weights=inception, metrics=["sfid"], convention="adm").scores
    assert again == pytest.approx({"sFID": distance_of_few(*rows)}, rel=1e-4)
    with pytest.raises(DiscliError, match="made with resize tf1-bilinear, the samples are scored with pil-bicubic"):
        evaluate(small[0], ref, weights=inception, convention="clean-fid")


def test_statistics_of_another_precision_are_refused(tmp_path):
    images = save_folder(tmp_path / "images", drawn_images(5, 8, 0))
    made = open_reference(make_ref(images, tmp_path / "made.npz", features="random"), torch.device("cpu"))
    extractor = RandomFeatures()
    check_statistics(made, extractor)
    extractor.precision = "bf16"
    with pytest.raises(DiscliError, match="made with precision fp32"):
        check_statistics(made, extractor)


@pytest.mark.slow
def test_two_processes_share_the_work_and_give_the_numbers_of_one(data_file, tmp_path):
    samples = save_samples(tmp_path / "samples", drawn_images(60, 12, 0), data_file)
    flags = [str(samples), "--features", "random", "--metrics", "all", "--per-class", "--bootstrap", "5", "--json"]
    found = []
    for processes in (1, 2):
        card = tmp_path / f"{processes}.html"
        command = ["-m", "discli", "eval-fid", *flags, "--card", str(card), "--no-cache"]
        tasks = launch("slurm", *command, processes=processes)
        assert [task.returncode for task in tasks] == [0] * processes, [task.stderr for task in tasks]
        found.append(json.loads("".join(task.stdout for task in tasks)))  # one of them speaks
        assert found[-1]["processes"] == processes
    alone, together = found
    assert together["scores"] == pytest.approx(alone["scores"], rel=1e-6, abs=1e-6)
    assert together["effect_of_n"] == pytest.approx(alone["effect_of_n"], rel=1e-6)
    classes, shared = ({row.pop("class"): row for row in result["per_class"]} for result in found)
    assert shared == {name: pytest.approx(row, rel=1e-6) for name, row in classes.items()}
    assert (tmp_path / "1.html").stat().st_size == pytest.approx((tmp_path / "2.html").stat().st_size, rel=0.01)


def test_random_features_are_printed_and_keyed_as_not_comparable(folders, capsys):
    result = evaluate(*folders, features="random")
    assert capsys.readouterr().out == ""
    print_scores(result)
    assert list(result.scores) == ["FD (random features), not comparable with FID"]
    shown = capsys.readouterr().out
    assert "FD (random features), not comparable with FID" in shown
    assert "FID " not in shown.replace("with FID ", "")


def test_json_alone_goes_to_stdout_and_reads_back_as_what_the_function_returns(folders, tmp_path, capsys):
    eval_fid(*folders, features="random", as_json=True)
    (tmp_path / "score.json").write_text(capsys.readouterr().out)
    result = evaluate(*map(str, folders), features="random")
    found = read_eval_result(tmp_path / "score.json")
    assert found.format == 1
    same = {"seconds": 0.0, "reference": result.reference}
    assert found.model_copy(update=same) == result.model_copy(update=same)
    assert result.samples.n == 200
    assert result.reference.n == 240
    assert result.fid_infinity.low < result.distance < result.fid_infinity.high


def test_batch_size_changes_nothing_but_rounding(folders):
    one = evaluate(*folders, features="random", batch_size=7, cache=False, bootstrap=0).distance
    other = evaluate(*folders, features="random", batch_size=200, cache=False, bootstrap=0).distance
    assert one == pytest.approx(other, rel=1e-5)


def test_without_ref_the_run_s_data_is_the_reference_and_the_manifest_is_told(data_file, tmp_path, capsys):
    samples = save_samples(tmp_path / "samples", drawn_images(60, 12, 0), data_file)
    result = evaluate(samples, features="random")
    print_scores(result)
    assert result.reference.path == str(data_file)
    assert result.samples.n == 60  # not 61: the sheet is no sample
    shown = " ".join(capsys.readouterr().out.split())
    for fact in ("ddim", "25 steps", "NFE 50", "guidance 1.5", "decay 0.999", "fp32", "seed 0"):
        assert fact in shown
    folder = save_folder(tmp_path / "folder", drawn_images(240, 12, 1))
    assert evaluate(samples, folder, features="random").distance == pytest.approx(result.distance, rel=0.05)


def test_a_score_names_all_that_decides_the_samples(data_file, tmp_path, capsys):
    given = {"init": [{"name": "a.png", "sha256": "aa"}], "mask": {"name": "m.png", "sha256": "bb"}, "strength": 0.3}
    changes = {"cfg_interval": {"low": 0.3, "high": 3.0}, "class_choice": [0, 1], "edit": given}
    weak = {"name": "autoguidance", "checkpoint": "/runs/weak"}
    samples = save_samples(tmp_path / "samples", drawn_images(60, 12, 0), data_file, **changes, guidance=weak)
    result = evaluate(samples, features="random")
    found = result.samples
    assert (found.guidance.name, found.cfg_schedule.name, found.cfg_interval) == (
        "autoguidance",
        "constant",
        "0.3 to 3",
    )
    assert (found.class_choice, found.contrastive_correction) == ("0, 1", True)
    assert "1 given images" in found.begins_with
    print_scores(result)
    shown = " ".join(capsys.readouterr().out.split())
    for fact in ("autoguidance", "0.3 to 3", "1 given images", "strength 0.3, mask bb"):
        assert fact in shown
    plain = evaluate(save_samples(tmp_path / "plain", drawn_images(60, 12, 0), data_file), features="random").samples
    assert (plain.cfg_interval, plain.class_choice, plain.begins_with) == ("everywhere", "random", "noise alone")


def test_classes_are_scored_on_their_own(data_file, tmp_path):
    images = drawn_images(60, 12, 0)
    images[1::2] = 255 - images[1::2] // 4
    samples = save_samples(tmp_path / "samples", images, data_file)
    rows = evaluate(samples, features="random", per_class=True).per_class
    assert [(row.name, row.n, row.n_reference) for row in rows] == [("class0", 30, 120), ("class1", 30, 120)]
    assert rows[1].distance > 2 * rows[0].distance


def test_classes_are_compared_with_those_of_their_name_in_any_order(data_file, tmp_path):
    """Or with the number of their place, where both sides have the same names, some of them twice."""
    images = drawn_images(60, 12, 0)
    images[1::2] = 255 - images[1::2] // 4
    samples = save_samples(tmp_path / "samples", images, data_file)
    ours = evaluate(samples, features="random", bootstrap=0, per_class=True).per_class
    shutil.copytree(data_file.parent / "discs", tmp_path / "ref")
    (tmp_path / "ref" / "class0").rename(tmp_path / "ref" / "class2")
    manifest = json.loads((samples / "manifest.json").read_text())
    manifest["contract"]["class_names"] = ["class2", "class1"]
    (samples / "manifest.json").write_text(json.dumps(manifest))
    named = evaluate(samples, tmp_path / "ref", features="random", bootstrap=0, per_class=True).per_class
    assert {row.name: row.distance for row in named} == pytest.approx(
        {"class2": ours[0].distance, "class1": ours[1].distance}
    )
    sides = [SimpleNamespace(labels=torch.arange(3), class_names=("crane", "ant", "crane")) for _ in range(2)]
    assert numbered(sides[0], range(3), sides[1]).tolist() == [0, 1, 2]
    fewer = SimpleNamespace(labels=torch.tensor([0, 0]), class_names=("ant",))
    assert numbered(sides[0], range(3), fewer).tolist() == [-1, 0, -1]


def test_a_missing_sample_or_data_file_is_named(data_file, tmp_path):
    samples = save_samples(tmp_path / "samples", drawn_images(5, 12, 0), data_file)
    (samples / "000003.png").unlink()
    with pytest.raises(DiscliError, match=r"lacks 1 of its 5 samples: 000003\.png"):
        evaluate(samples, features="random")
    samples = save_samples(tmp_path / "other", drawn_images(5, 12, 0), tmp_path / "gone.h5")
    with pytest.raises(DiscliError, match=r"trained on .*gone\.h5, which is not there"):
        evaluate(samples, features="random")
    samples = save_samples(tmp_path / "unnamed", drawn_images(5, 12, 0), None)
    with pytest.raises(DiscliError, match="does not name the data"):
        evaluate(samples, features="random")
    with pytest.raises(DiscliError, match=r"no manifest\.json"):
        evaluate(save_folder(tmp_path / "plain", drawn_images(5, 12, 0)), features="random")


def test_adm_batches_are_samples_and_references(folders, tmp_path):
    samples, ref = folders
    np.savez(tmp_path / "samples.npz", drawn_images(200, 12, 0).permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "ref.npz", arr_0=drawn_images(240, 12, 1).permute(0, 2, 3, 1).numpy())
    from_folders = evaluate(samples, ref, features="random", metrics=["all"]).scores
    from_npz = evaluate(tmp_path / "samples.npz", tmp_path / "ref.npz", features="random", metrics=["all"]).scores
    assert from_npz == pytest.approx(from_folders, rel=1e-6, abs=1e-6)


def test_published_statistics_give_the_distance_and_their_images_the_neighbours(folders, tmp_path):
    samples, ref = folders
    made = make_ref(ref, tmp_path / "made.npz", features="random")
    both = tmp_path / "both.npz"
    with np.load(made) as arrays:
        few = drawn_images(10, 12, 1).permute(0, 2, 3, 1).numpy()
        np.savez(both, mu=arrays["mu"], sigma=arrays["sigma"], arr_0=few)
    plain = evaluate(samples, ref, features="random")
    assert evaluate(samples, both, features="random").distance == pytest.approx(plain.distance, rel=1e-9)
    eval_fid(samples, both, features="random", card=tmp_path / "card.html")
    assert "Nearest reference images" in (tmp_path / "card.html").read_text()
    with pytest.raises(DiscliError, match="holds statistics alone"):
        evaluate(samples, made, features="random", metrics=["kid"])


def test_the_cache_follows_the_content_not_the_path(folders, tmp_path):
    samples, ref = folders
    moved = tmp_path / "moved"
    shutil.copytree(ref, moved)
    first = evaluate(samples, ref, features="random")
    again = evaluate(samples, moved, features="random")
    assert (first.reference.cached, again.reference.cached) == (False, True)
    assert again.distance == pytest.approx(first.distance, rel=1e-9)

    Image.new("RGB", (12, 12), "red").save(moved / "000000.png")
    changed = evaluate(samples, moved, features="random")
    assert not changed.reference.cached
    assert changed.distance != first.distance
    assert changed.reference.sha256 != first.reference.sha256


def test_latents_are_scored_against_their_reconstructions_and_named_so(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16)
    vae.save_pretrained(tmp_path / "vae")
    images = save_folder(tmp_path / "images", drawn_images(12, 16, 0))
    latents = encode(images, 16, codec="vae", vae=str(tmp_path / "vae"), out=tmp_path / "latents.h5", workers=0)
    result = evaluate(images, latents, features="random")
    assert result.reference.kind.startswith("reconstructions by")
    assert result.distance > 1  # an untrained autoencoder reconstructs nothing


def test_the_score_card_shows_samples_neighbours_and_every_condition(data_file, tmp_path):
    images = drawn_images(50, 12, 0)
    images[0] = drawn_images(240, 12, 1)[1]  # a memorised image
    samples = save_samples(tmp_path / "<b>samples", images, data_file)
    eval_fid(samples, features="random", card=tmp_path / "cards" / "card.html", per_class=True)
    result = evaluate(samples, features="random")
    page = (tmp_path / "cards" / "card.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 1 + 8 * (
        1 + 5
    )  # the sheet; eight samples, five neighbours each
    assert "<b>" not in page
    for fact in (RANDOM_FD, result.reference.sha256, result.weights_sha256, "Distance by class"):
        assert fact in page
    assert page.count("<figcaption>0</figcaption>") == 1
    assert "2 classes have no more than 160 images" in page
    assert [path.name for path in (tmp_path / "cards").iterdir()] == ["card.html"]


@pytest.mark.parametrize("n", [50, 200])
def test_n_scores_that_many_and_the_same_ones_each_time(folders, n):
    results = [evaluate(*folders, features="random", n=n) for _ in range(2)]
    assert results[0].samples.n == n
    assert results[0].distance == results[1].distance


def test_bad_input_is_refused_in_one_line(folders, data_file, tmp_path):
    samples, ref = folders

    def message(path: Path, *args, **kwargs) -> str:
        with pytest.raises(DiscliError) as raised:
            evaluate(path, *args, **{"features": "random"} | kwargs)
        assert "\n" not in raised.value.message
        assert raised.value.hint
        return raised.value.message

    (tmp_path / "empty").mkdir()
    assert "holds no images" in message(tmp_path / "empty", ref)
    assert "does not exist" in message(tmp_path / "nowhere", ref)
    assert "does not exist" in message(samples, tmp_path / "nowhere.npz")

    mixed = save_folder(tmp_path / "mixed", drawn_images(5, 12, 0))
    Image.new("RGB", (12, 13)).save(mixed / "000002.png")
    assert "mixes sizes: 000000.png has 12x12 px, 000002.png 13x12" in message(mixed, ref)
    broken = save_folder(tmp_path / "broken", drawn_images(5, 12, 0))
    (broken / "000004.png").write_bytes(b"no image")
    assert "000004.png cannot be read: not an image" in message(broken, ref)
    assert "000004.png cannot be read: not an image" in message(samples, broken)
    assert "gives 1 image" in message(save_folder(tmp_path / "one", drawn_images(1, 12, 0)), ref)
    assert "8x8 px, the samples 12x12" in message(samples, save_folder(tmp_path / "small", drawn_images(5, 8, 0)))
    assert "holds 200 images" in message(samples, ref, n=201)
    assert "no such metric" in message(samples, ref, metrics=["fdd"])
    assert "needs logits" in message(samples, ref, metrics=["is"])
    assert "no such features" in message(samples, ref, features="clip")
    assert "no class labels" in message(samples, data_file, per_class=True)
    with pytest.raises(DiscliError, match="is a folder"):
        eval_fid(samples, ref, features="random", card=tmp_path)
    made = make_ref(ref, tmp_path / "made.npz", features="random")
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    assert "2,048 dimensions, not those of --features random (160)" in message(samples, tmp_path / "adm.npz")
    np.savez(tmp_path / "spatial.npz", mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    assert "no mu and sigma" in message(samples, tmp_path / "spatial.npz")
    assert "12x12 px, the samples 8x8" in message(tmp_path / "small", made)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    assert "discli encode did not write it" in message(samples, tmp_path / "foreign.h5")
    assert "--device nowhere" in message(samples, ref, device="nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DiscliError, match="--card"):
        eval_fid(samples, ref, features="random", card=tmp_path / "file" / "card.html")
    with pytest.raises(DiscliError, match=r"statistics are a \.npz"):
        make_ref(ref, tmp_path / "made.txt", features="random")


def test_a_reference_is_not_drawn_from_a_run(tiny_run, tmp_path):
    with pytest.raises(DiscliError, match=r"is a run.*discli sample"):
        make_ref(tiny_run, tmp_path / "made.npz", features="random")
    assert not (tmp_path / "made.npz").exists()


def test_grayscale_palette_and_transparent_images_are_scored_as_rgb(folders, tmp_path):
    odd = save_folder(tmp_path / "odd", drawn_images(40, 12, 0))
    Image.open(odd / "000000.png").convert("L").save(odd / "000000.png")
    Image.open(odd / "000001.png").convert("P").save(odd / "000001.png")
    Image.open(odd / "000002.png").convert("RGBA").save(odd / "000002.png")
    assert evaluate(odd, folders[1], features="random").samples.n == 40
