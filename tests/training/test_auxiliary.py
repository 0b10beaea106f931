"""Alignment while training: it falls, it resumes to the bit, and what it needs is asked for before the first step."""

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from discli.data.grids import write_grid
from discli.data.store import Store
from discli.evaluation.evaluate import evaluate
from discli.evaluation.features.random import RandomFeatures
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.contract import FeatureGrid
from discli.reports.compare_scores import compare_scores
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training.auxiliary import BlockOutputs
from discli.training.auxiliary.align import Align, AlignSpec
from discli.training.batches import BatchPlan, Feed
from discli.training.train import train
from tests import readme, warm
from tests.data.files import contract
from tests.model.small import small_recipe
from tests.tiny_run import arguments, content, losses, together

GRID = FeatureGrid(name="net", network="means of squares", weights_sha256="1", input_size=8, side=4, channels=6)
ALIGNED = ['train.align.features="net"', "train.align.weight=0.5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, digits_file):
    """Digits with the mean and deviation of each colour of each square of two pixels as features."""
    file = shutil.copy(digits_file, tmp_path_factory.mktemp("aligned") / "digits.h5")
    store = Store(file)

    def see(rows: range) -> np.ndarray:
        squares = store.read(np.arange(rows.start, rows.stop)).float().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        return torch.cat([squares.mean(4), squares.std(4)], 1).permute(0, 2, 3, 1).half().numpy() / 64 - 1

    write_grid(file, GRID, see, 64)
    return file


@pytest.fixture(scope="module")
def aligned(data, recipe, tmp_path_factory):
    return train(recipe, data=data, out=tmp_path_factory.mktemp("run") / "run", overrides=ALIGNED)


def test_the_loss_falls_and_stands_apart_from_the_diffusions(recipe, data, aligned, tmp_path):
    run = train(recipe, data=data, out=tmp_path / "run", overrides=[*ALIGNED, "train.steps=60", "train.lr=5e-3"])
    found = [line["align_loss"] for line in read_log(run / "metrics.jsonl")]
    assert found[-1] < 0.7 * found[0]
    plain = train(recipe, data=data, out=tmp_path / "plain")
    assert "align_loss" not in read_log(plain / "metrics.jsonl")[0]
    first, other = read_log(plain / "metrics.jsonl")[0], read_log(aligned / "metrics.jsonl")[0]
    assert other["loss"] == pytest.approx(first["loss"], rel=0.02)  # of the same network, noise and images


def test_the_projector_is_kept_and_never_sampled_with(aligned):
    folder = aligned / "checkpoints" / "00000012"
    kept = load_file(folder / "auxiliary.safetensors")
    assert {name.split(".")[0] for name in kept} == {"weights", "exp_avg", "exp_avg_sq", "step"}
    assert load_file(folder / "ema.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    assert not [name for name in load_file(folder / "model.safetensors") if "projector" in name]


def test_resumed_it_ends_with_the_same_bits(recipe, data, aligned, tmp_path):
    run = shutil.copytree(aligned, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "00000012")
    train(recipe, data=data, out=run, overrides=ALIGNED)
    assert content(run) == content(aligned)


@pytest.mark.parametrize(
    "how", [["train.micro_batch=2"], ["train.activation_checkpointing=true"], ['data.cache="device"']]
)
def test_the_same_by_micro_batches_with_checkpointed_blocks_and_from_the_device(how, recipe, data, aligned, tmp_path):
    run = train(recipe, data=data, out=tmp_path / "run", overrides=[*ALIGNED, *how])
    for line, other in zip(read_log(run / "metrics.jsonl"), read_log(aligned / "metrics.jsonl"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert line["align_loss"] == pytest.approx(other["align_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [[], ['train.parallel="fsdp2"']])
def test_the_same_with_two_processes(sharding, recipe, data, aligned, tmp_path):
    run = tmp_path / "run"
    together(*arguments(recipe, data, run, *ALIGNED, *sharding))
    assert losses(run) == pytest.approx(losses(aligned), rel=1e-4)
    ours, theirs = (load_file(one / "checkpoints" / "00000012" / "auxiliary.safetensors") for one in (run, aligned))
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-2, atol=1e-4), name


def test_it_stops_at_its_share_of_the_steps(recipe, data, tmp_path, capsys):
    run = train(recipe, data=data, out=tmp_path / "run", overrides=[*ALIGNED, "train.align.stop_at=0.5"])
    assert [line["align_loss"] is None for line in read_log(run / "metrics.jsonl")] == [False, False, True, True]
    half, end = (load_file(run / "checkpoints" / f"{step:08d}" / "auxiliary.safetensors") for step in (8, 12))
    assert all(torch.equal(half[name], end[name]) for name in half)
    # As if the run had been meant to be that long; and it is said.
    train(recipe, data=data, out=run, overrides=[*ALIGNED, "train.align.stop_at=0.5", "train.steps=36"])
    assert "train.align ends after step 18, not 6" in " ".join(capsys.readouterr().err.split())
    seen = [line["align_loss"] is not None for line in read_log(run / "metrics.jsonl")]
    assert seen == [True, True, False, False, True, True, *[False] * 6]


def test_features_come_mirrored_where_their_images_do(data):
    store, plan = Store(data), BatchPlan(200, 16, seed=1)
    with Feed(store, plan, 0, 1, flip=True, pin=False, features=["net"]) as feed:
        batch = next(feed)
    plain = store.read(batch.indices)
    mirrored = np.array([not torch.equal(a, b) for a, b in zip(batch.stored, plain, strict=True)])
    assert 0 < mirrored.sum() < 16
    assert torch.equal(batch.features["net"], store.read_grid("net", batch.indices, mirrored))


@pytest.mark.parametrize("conditioning", ["token", "adaln"])
def test_block_outputs_are_patches_in_raster_order(conditioning):
    """A block whose mixer gives nothing passes its input on: patches with their positions."""
    recipe = small_recipe(conditioning=conditioning, scan_order="zigzag")
    network = DiS.from_recipe(recipe)
    torch.nn.init.zeros_(network.blocks[0].mixer.out_proj.weight)
    outputs = BlockOutputs(network, [0, 2])
    x = torch.randn(3, recipe.in_channels, 8, 8)
    network(x, torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    assert outputs.take() == {}
    with outputs.watching():
        network(x, torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    found = outputs.take()
    extra = network.conditioning.extra_tokens
    expected = network.patch_embed(x).flatten(2).transpose(1, 2) + network.pos_embed[:, extra:]
    assert torch.allclose(found[0], expected, atol=1e-6)
    assert found[2].shape == expected.shape
    assert not torch.allclose(found[2], expected, atol=1e-2)


def align(**settings) -> Align:
    side, channels = settings.pop("side", 4), settings.pop("channels", 5)
    recipe = small_recipe()
    grid = GRID.model_copy(update={"side": side, "channels": channels})
    torch.manual_seed(0)
    return Align(AlignSpec(features="net", **settings), recipe, contract(grids=(grid,)))


def test_the_loss_is_the_mean_cosine_distance():
    loss = align(block=2)
    tokens, features = torch.randn(2, 16, 32), torch.randn(2, 4, 4, 5).half()
    projected, wanted = loss.projector(tokens), features.float().reshape(2, 16, 5)
    cosine = (projected * wanted).sum(-1) / (projected.norm(dim=-1) * wanted.norm(dim=-1))
    assert torch.allclose(loss({1: tokens}, features), 1 - cosine.mean(1), atol=1e-6)
    perfect = loss.projector(tokens).detach().reshape(2, 4, 4, 5)
    assert loss({1: tokens}, 7 * perfect).abs().max() < 1e-6


def test_a_grid_of_another_side_is_resampled():
    finer = torch.arange(8.0).expand(8, 8).repeat_interleave(1, 0)[None, :, :, None].expand(1, 8, 8, 5)
    columns = align(side=8).target(finer).reshape(4, 4, 5)[:, :, 0]
    assert torch.allclose(columns, columns[0].expand(4, 4), atol=1e-5)  # rows stay rows
    assert (columns[0].diff() > 1.5).all()
    coarse = torch.randn(1, 2, 2, 5)
    assert align(side=2).target(coarse).shape == (1, 16, 5)


def test_spatial_norm_takes_away_what_all_patches_share():
    loss = align(spatial_norm=True, projector="conv")
    features = torch.randn(2, 4, 4, 5)
    shifted = features + 100 * torch.randn(2, 1, 1, 5)
    assert torch.allclose(loss.target(features), loss.target(shifted), atol=1e-3)
    assert loss({loss.block: torch.randn(2, 16, 32)}, features).shape == (2,)


def test_a_score_by_the_teachers_own_features_is_marked(recipe, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCLI_CACHE", str(tmp_path / "cache"))
    file = shutil.copy(data, tmp_path / "taught.h5")
    taught = GRID.model_copy(update={"name": "random", "weights_sha256": RandomFeatures().weights_sha256})
    store = Store(file)
    write_grid(file, taught, lambda rows: store.grids["net"][rows.start : rows.stop], 64)
    score = ['train.score={every=12, n=8, features="random", sampling_steps=2}']
    run = train(recipe, data=file, out=tmp_path / "a", overrides=['train.align.features="random"', *score])
    other = train(recipe, data=file, out=tmp_path / "b", overrides=ALIGNED)
    found, plain = (evaluate(one, features="random", n=8, bootstrap=0) for one in (run, other))
    assert [found.own_teacher, plain.own_teacher] == [True, False]
    assert all("not comparable" in name and "teacher" in name for name in found.scores)
    assert not any("teacher" in name for name in plain.scores)
    assert any("teacher" in name for name in read_log(run / "scores.jsonl")[0])
    assert any("trained to have the features" in line for line in compare_scores(found, plain).forbids)


def test_features_that_others_read_are_no_part_of_a_run(recipe, data, digits_file, tmp_path):
    """A run without alignment goes on when its data file has been given features meanwhile."""
    file = shutil.copy(digits_file, tmp_path / "digits.h5")
    run = train(recipe, data=file, out=tmp_path / "run", overrides=["train.steps=4"])
    shutil.copy(data, file)
    train(recipe, data=file, out=run, overrides=["train.steps=8"])


@pytest.mark.parametrize(
    ("settings", "says", "how"),
    [
        (['train.align.features="own"'], "own", "discli teacher"),
        (['train.align.features="efficientnet-lite0"'], "those of net", "--features efficientnet-lite0"),
        ([*ALIGNED, "train.align.input_size=16"], "images of 8 px", "train.align.input_size=8"),
    ],
)
def test_data_without_the_features_is_refused_before_the_first_step(settings, says, how, recipe, data, tmp_path):
    with pytest.raises(DiscliError, match=says) as refusal:
        train(recipe, data=data, out=tmp_path / "run", overrides=settings)
    assert how in refusal.value.hint
    assert refusal.value.status == 2
    assert not (tmp_path / "run").exists()


def test_a_block_that_is_not_there_is_refused():
    tree = small_recipe().model_dump(mode="json")
    tree["train"]["align"] = {"block": 6}
    with pytest.raises(DiscliError, match=r"train\.align: there is no block 6"):
        parse_recipe(tree, "x")


@pytest.mark.slow
def test_the_readmes_loss_is_found_by_its_folder(recipe, digits_file, tmp_path):
    """Written into a copy of the package."""
    examples = readme.fenced((readme.ROOT / "discli/training/README.md").read_text(), "python")
    [code] = [code for code in examples if "AuxiliarySpec" in code]
    shutil.copytree(readme.ROOT / "discli", tmp_path / "discli", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "DISCLI_SCAN": "reference"}
    settings = ["train.calm.block=2", "train.steps=6", 'train.precision="fp32"']
    done = warm.run(*arguments(recipe, digits_file, tmp_path / "run", *settings), env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(line["calm_loss"] > 0 for line in read_log(tmp_path / "run" / "metrics.jsonl"))
    assert not list((tmp_path / "run").rglob("auxiliary.safetensors"))  # it has no parameters


TOGETHER = [
    *ALIGNED, "train.align.block=2", "train.layersync={early=1, late=5}", "train.sra={student=1, teacher=3}",
    "train.dispersive={block=1, together=2}", "train.route={outer=2}", "train.optimizer=muon",
    "train.lr_schedule=warmup-stable-decay", "train.seed={init=1, order=2, noise=3}", "train.precision=fp32",
    "train.steps=4", "train.checkpoint_every=2", "train.log_every=2", "model.depth=5", "model.scan_order=zigzag",
    'model.mixer=["mamba", "attention", "hydra"]', "model.grid_conv=depthwise", "diffusion.objective=x0-flow",
    "diffusion.contrastive=0.1", "diffusion.time_shift=2.0", "sample.sampler=heun",
]  # fmt: skip


@pytest.mark.slow
def test_what_may_be_added_to_a_training_goes_together(recipe, data, tmp_path):
    """Each image has its own features, partner, route and teacher, however a step is cut; and resumes to the bit."""
    whole = train(recipe, data=data, out=tmp_path / "whole", overrides=TOGETHER)
    cut = [*TOGETHER, "train.micro_batch=2", "train.activation_checkpointing=true"]
    run = train(recipe, data=data, out=tmp_path / "cut", overrides=[*cut, "train.steps=2"])
    assert losses(run)[0] == pytest.approx(losses(whole)[0], rel=1e-4)
    for name in ("align_loss", "layersync_loss", "sra_loss", "dispersive_loss"):
        ours, theirs = (read_log(one / "metrics.jsonl")[0][name] for one in (run, whole))
        assert ours == pytest.approx(theirs, rel=1e-3), name
    again = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "00000004")
    train(recipe, data=data, out=again, overrides=TOGETHER)
    assert content(again, 4) == content(whole, 4)
