"""Losses on block outputs against their papers' formulas, what they depend on, and that they resume to the bit."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from discli.cost.flops import training_flops
from discli.diffusion import DiffusionLoss, build_schedule
from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.kinds import AveragedOutput
from discli.recipe.train import share_of_batch
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training.auxiliary import BlockOutputs
from discli.training.auxiliary.dispersive import Dispersive, DispersiveSpec
from discli.training.auxiliary.layersync import LayerSync, LayerSyncSpec
from discli.training.auxiliary.sra import SRA, SRASpec
from discli.training.averaged import AveragedTeacher, Drawn
from discli.training.ema import ConstantEma
from discli.training.train import train
from tests.data.files import contract
from tests.model.small import small_recipe
from tests.tiny_run import arguments, content, launch, losses, together

ALL = ["train.layersync={}", "train.dispersive={block=1, together=4}", "train.sra={weight=0.5}"]
NAMES = ["layersync_loss", "dispersive_loss", "sra_loss"]


@pytest.fixture(scope="module")
def whole(recipe, digits_file, tmp_path_factory):
    return train(recipe, data=digits_file, out=tmp_path_factory.mktemp("run") / "run", overrides=ALL)


def _with(**tables):
    tree = small_recipe().model_dump(mode="json")
    tree["train"] |= tables
    return parse_recipe(tree, "x")


def test_layersync_is_the_mean_cosine_distance_and_teaches_the_early_block_alone():
    loss = LayerSync(LayerSyncSpec(early=1, late=3), small_recipe(), contract())
    early, late = (torch.randn(2, 16, 32, requires_grad=True) for _ in range(2))
    found = loss({0: early, 2: late}, None)
    cosine = (early * late).sum(-1) / (early.norm(dim=-1) * late.norm(dim=-1))
    assert torch.allclose(found, 1 - cosine.mean(1), atol=1e-6)
    found.sum().backward()
    assert early.grad.abs().sum() > 0
    assert late.grad is None


@pytest.mark.parametrize(("depth", "pair"), [(28, (8, 16)), (7, (2, 4)), (5, (1, 3)), (3, (1, 2))])
def test_layersync_takes_the_authors_blocks_in_proportion(depth, pair):
    assert LayerSyncSpec().pair(depth) == pair


def _dispersive(**settings) -> Dispersive:
    return Dispersive(DispersiveSpec(block=1, **settings), small_recipe(), contract())


def test_the_dispersive_loss_is_the_authors_formula():
    """Their lines: pairs twice and themselves once, squared distances by the number of elements."""
    z = torch.randn(4, 16, 32)
    found = _dispersive(together=4, temperature=0.5)({0: z}, None)
    distances = torch.nn.functional.pdist(z.flatten(1)).pow(2) / (16 * 32)
    everything = torch.cat([distances, distances, torch.zeros(4)])
    assert torch.allclose(found, torch.exp(-everything / 0.5).mean().log().expand(4), atol=1e-5)


def test_the_dispersive_loss_of_two_images_in_closed_form():
    a, b = torch.zeros(16, 32), torch.ones(16, 32)  # a squared distance of 1 an element
    loss = _dispersive(together=2, temperature=0.5)
    wanted = math.log((1 + math.exp(-1 / 0.5)) / 2)
    assert loss({0: torch.stack([a, b])}, None).tolist() == pytest.approx([wanted, wanted])
    same = torch.stack([b, b]).requires_grad_()
    nothing = loss({0: same}, None)
    assert nothing.tolist() == pytest.approx([0, 0])
    nothing.sum().backward()
    assert torch.isfinite(same.grad).all()


def test_a_groups_loss_depends_on_the_group_alone():
    loss, z = _dispersive(together=2), torch.randn(6, 16, 32)
    parts = torch.cat([loss({0: part}, None) for part in z.split(2)])
    assert torch.allclose(loss({0: z}, None), parts, atol=1e-6)
    assert len(set(parts.tolist())) == 3


def test_a_cut_through_a_group_is_refused():
    for settings, processes in (({"batch_size": 8}, 4), ({"batch_size": 8, "micro_batch": 2}, 1)):
        spec = _with(dispersive={"together": 4}, **settings).train
        with pytest.raises(DiscliError, match=r"train\.dispersive") as refusal:
            share_of_batch(spec, processes)
        assert refusal.value.status == 2
    assert share_of_batch(_with(dispersive={"together": 4}, batch_size=8, micro_batch=4).train, 1) == 8


@pytest.mark.parametrize(
    "table",
    [
        {"layersync": {"early": 3, "late": 3}},
        {"layersync": {"late": 9}},
        {"dispersive": {"block": 9}},
        {"sra": {"teacher": 9}},
        {"sra": {"student": 9}},
    ],
)
def test_blocks_that_are_not_there_are_refused(table):
    with pytest.raises(DiscliError, match=f"train.{next(iter(table))}"):
        _with(**table)


@pytest.mark.parametrize("conditioning", ["token", "adaln-zero"])
def test_flops_of_a_teacher_are_as_torch_counts_them(conditioning):
    tree = _with(sra={"student": 1, "teacher": 3, "earlier": 0.5}).model_dump(mode="json")
    tree["model"] |= {"mixer": "attention", "grid_conv": "depthwise", "conditioning": conditioning, "depth": 3}
    recipe = parse_recipe(tree, "t")
    plain = recipe.model_copy(update={"train": recipe.train.model_copy(update={"sra": None})})
    network = DiS.from_recipe(recipe)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    teacher = AveragedTeacher(recipe, weights, DiffusionLoss(recipe.diffusion))
    x0, t = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)
    drawn = Drawn(x0, x0, t, torch.zeros(1, dtype=torch.long), torch.zeros(1))
    # Torch counts attention's products where they are written out, and no fused kernel of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        teacher(drawn, AveragedOutput(3, 0.5))
    assert training_flops(recipe) - training_flops(plain) == counter.get_total_flops()


def test_sra_is_the_smooth_l1_distance_of_projected_tokens():
    loss = SRA(SRASpec(student=1, beta=0.05), small_recipe(), contract())
    tokens, target = torch.randn(2, 16, 32), torch.randn(2, 16, 32)
    distance = (loss.projector(tokens) - target).abs()
    smooth = torch.where(distance < 0.05, distance**2 / (2 * 0.05), distance - 0.05 / 2)
    assert torch.allclose(loss({0: tokens}, target), smooth.mean((1, 2)), atol=1e-6)


def _drawn(recipe, loss: DiffusionLoss, fraction: float) -> Drawn:
    shape = (3, *recipe.input_shape)
    classes = torch.arange(3) if recipe.model.num_classes else None
    t = loss.schedule.timestep(torch.full((3,), fraction))
    return Drawn(torch.randn(shape), torch.randn(shape), t, classes, torch.rand(3))


@pytest.mark.parametrize(("objective", "shift"), [("eps", 1.0), ("flow", 1.0), ("flow", 3.0)])
def test_the_teacher_is_todays_average_on_less_noise(objective, shift):
    tree = small_recipe().model_dump(mode="json")
    tree["diffusion"] = {"objective": objective, "time_shift": shift}
    tree["sample"] = {"sampler": {"flow": "euler"}.get(objective, "ddim")}
    recipe = parse_recipe(tree, "x")
    loss, network = DiffusionLoss(recipe.diffusion), DiS.from_recipe(recipe)
    ema = ConstantEma(network, decay=0.5)
    teacher = AveragedTeacher(recipe, ema.averages["ema"], loss)
    drawn = _drawn(recipe, loss, 0.6)
    outputs = BlockOutputs(network, [1])

    def seen(fraction: float) -> torch.Tensor:
        t = loss.schedule.timestep(torch.full((3,), fraction, dtype=torch.float64))
        x_t, t_model = loss.noisy(drawn.x0, t, drawn.noise)
        with outputs.watching():
            network(x_t, t_model, drawn.y)
        return outputs.take()[1]

    at_t = teacher(drawn, AveragedOutput(block=2, earlier=0.0))
    assert torch.allclose(at_t, seen(0.6), atol=1e-5)
    assert torch.allclose(
        teacher(drawn, AveragedOutput(2, 1e9)), seen(0.0), atol=1e-5
    )  # never below the first timestep
    assert not torch.allclose(teacher(drawn, AveragedOutput(2, 0.2)), at_t, atol=1e-3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = teacher(drawn, AveragedOutput(2, 0.0))
    for step in range(60):
        ema.update(network, step + 1)
    assert torch.equal(before, at_t)
    assert torch.allclose(teacher(drawn, AveragedOutput(2, 0.0)), seen(0.6), atol=1e-2)


@pytest.mark.parametrize(("objective", "t"), [("eps", torch.arange(1000)), ("flow", torch.arange(1000) / 1000)])
def test_earlier_timesteps_are_never_noisier_and_of_no_share_the_same(objective, t):
    schedule = build_schedule(DiffusionSpec.model_validate({"objective": objective}))
    assert schedule.earlier(t, torch.zeros(1000, dtype=torch.float64)).tolist() == t.double().tolist()
    some = schedule.earlier(t, torch.full((1000,), 0.25, dtype=torch.float64))
    assert (some <= t).all()
    assert schedule.fraction(float(t[600])) - schedule.fraction(float(some[600])) == pytest.approx(0.25)


def test_each_is_logged_apart_and_none_changes_what_the_others_draw(recipe, whole, digits_file, tmp_path):
    first = read_log(whole / "metrics.jsonl")[0]
    assert all(math.isfinite(first[name]) for name in NAMES)
    alone = train(recipe, data=digits_file, out=tmp_path / "run", overrides=[ALL[2], "train.steps=3"])
    other = read_log(alone / "metrics.jsonl")[0]
    assert other["loss"] == pytest.approx(first["loss"], rel=0.02)
    assert other["sra_loss"] == pytest.approx(first["sra_loss"], rel=0.02)
    assert "layersync_loss" not in other


def test_resumed_it_ends_with_the_same_bits(recipe, whole, digits_file, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "00000012")
    train(recipe, data=digits_file, out=run, overrides=ALL)
    assert content(run) == content(whole)


@pytest.mark.parametrize("how", [["train.micro_batch=4"], ["train.activation_checkpointing=true"]])
def test_the_same_however_a_step_is_computed(how, recipe, whole, digits_file, tmp_path):
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=[*ALL, *how])
    for line, other in zip(read_log(run / "metrics.jsonl"), read_log(whole / "metrics.jsonl"), strict=True):
        for name in ("loss", *NAMES):
            assert line[name] == pytest.approx(other[name], rel=1e-3)


@pytest.mark.slow
def test_the_same_with_two_processes(recipe, whole, digits_file, tmp_path):
    together(*arguments(recipe, digits_file, tmp_path / "run", *ALL))
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-4)
    last, other = (read_log(run / "metrics.jsonl")[-1] for run in (tmp_path / "run", whole))
    assert [last[name] for name in NAMES] == pytest.approx([other[name] for name in NAMES], rel=1e-3)
    ours, theirs = (load_file(run / "checkpoints/00000012/auxiliary.safetensors") for run in (tmp_path / "run", whole))
    assert ours.keys() == theirs.keys()


@pytest.mark.slow
def test_sharded_averages_are_no_teacher(recipe, digits_file, tmp_path):
    settings = ["train.sra={}", 'train.parallel="fsdp2"']
    for done in launch("slurm", *arguments(recipe, digits_file, tmp_path / "run", *settings)):
        assert done.returncode == 2
        assert "train.sra needs the whole of the averaged weights" in done.stderr
        assert "Traceback" not in done.stderr
