"""Learning rates against their closed forms, and who is decayed."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from discli.model import DiS
from discli.recipe import parse_recipe
from discli.recipe.model import MIXERS
from discli.recipe.train import OPTIMIZERS
from discli.runs.logs import read_log
from discli.training.optimizers import build_optimizer
from discli.training.optimizers.muon import InFloat32, hidden_matrices, take_turns
from discli.training.schedules.constant import ConstantLrSpec
from discli.training.schedules.cosine import CosineLrSpec
from discli.training.schedules.inverse_sqrt import InverseSqrtLrSpec
from discli.training.schedules.warmup_stable_decay import WarmupStableDecayLrSpec
from discli.training.train import train
from tests.tiny_run import RECIPE, arguments, content, losses, together


def test_warm_up_rises_linearly_and_reaches_the_base():
    rates = [ConstantLrSpec(warmup_steps=4).at(1.0, step, 100) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_ends_at_its_minimum_and_is_half_way_in_the_middle():
    schedule = CosineLrSpec(warmup_steps=10, min_lr=0.1)
    assert schedule.at(1.0, 10, 111) == 1.0
    assert schedule.at(1.0, 60, 111) == pytest.approx(0.55)
    assert schedule.at(1.0, 110, 111) == pytest.approx(0.1)


def test_inverse_sqrt_halves_at_four_times_its_start():
    schedule = InverseSqrtLrSpec(decay_after=1000)
    assert schedule.at(2.0, 1000, 10_000) == 2.0
    assert schedule.at(2.0, 4000, 10_000) == 1.0
    assert schedule.at(2.0, 3000, 10_000) == pytest.approx(2 / math.sqrt(3))


def test_it_stays_and_then_falls_to_nothing_in_a_line_or_by_a_square_root():
    schedule = WarmupStableDecayLrSpec(warmup_steps=10, decay=0.2)
    rates = [schedule.at(2.0, step, 100) for step in range(100)]
    assert rates[:2] == [0.2, 0.4]
    assert rates[9:81] == [2.0] * 72
    assert rates[90] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(2.0 / 20)
    root = WarmupStableDecayLrSpec(decay=0.2, shape="1-sqrt")
    assert root.at(2.0, 80, 100) == 2.0
    assert root.at(2.0, 85, 100) == pytest.approx(1.0)  # a quarter of the way
    assert root.at(2.0, 79, 100) == 2.0


def _recipe(optimizer="adamw", **model):
    return parse_recipe(
        {
            "name": "t",
            "model": {"embed_dim": 16, "depth": 3, "num_classes": 2, **model},
            "data": {"resolution": 8},
            "train": {"steps": 1, "weight_decay": 0.1, "optimizer": optimizer},
        },
        "t",
    )


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_restored_optimizer_steps_as_the_one_that_was_saved(name, steps):
    recipe = _recipe(name)
    model = DiS.from_recipe(recipe)
    optimizer = build_optimizer(model, recipe.train)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for _ in range(steps):
        optimizer.step()
    twin = DiS.from_recipe(recipe)
    twin.load_state_dict(model.state_dict())
    restored = build_optimizer(twin, recipe.train)
    restored.restore({name: tensor.clone() for name, tensor in optimizer.tensors().items()})
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        ours.grad = theirs.grad.clone()
    optimizer.step()
    restored.step()
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_a_parameter_that_never_had_a_gradient_is_restored_as_such():
    """As the projector of a further loss that ``stop_at`` leaves out of every step."""
    first, twin = (torch.nn.ModuleDict({"used": torch.nn.Linear(3, 2), "not": torch.nn.Linear(3, 2)}) for _ in range(2))
    optimizer, restored = (build_optimizer(model, _recipe().train) for model in (first, twin))
    first["used"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    restored.restore(optimizer.tensors())
    assert restored.tensors().keys() == optimizer.tensors().keys()
    assert all(torch.equal(restored.tensors()[key], kept) for key, kept in optimizer.tensors().items())


def test_what_another_optimizer_kept_is_refused():
    model = DiS.from_recipe(_recipe())
    adamw, muon = (build_optimizer(model, _recipe(name).train) for name in ("adamw", "muon"))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    adamw.step()
    with pytest.raises(ValueError, match="another optimizer"):
        muon.restore(adamw.tensors())


def test_vectors_states_and_embeddings_are_not_decayed():
    recipe = _recipe()
    model = DiS.from_recipe(recipe)
    names = {id(p): n for n, p in model.named_parameters()}
    [adamw] = build_optimizer(model, recipe.train).parts
    decayed, kept = ({names[id(p)] for p in g["params"]} for g in adamw.param_groups)
    assert decayed | kept == set(names.values())
    assert "blocks.0.mixer.in_proj.weight" in decayed
    for name in ("blocks.0.mixer.forward_scan.A_log", "blocks.0.norm.weight", "pos_embed", "class_embed.weight"):
        assert name in kept


@pytest.mark.parametrize("mixer", list(MIXERS))
def test_muon_has_what_tokens_are_multiplied_by_inside_blocks(mixer):
    model = DiS.from_recipe(_recipe("muon", mixer=mixer, conditioning="adaln-zero"))
    hidden = hidden_matrices(model)
    assert all(parameter.ndim == 2 for name, parameter in model.named_parameters() if name in hidden)
    last = {name.rpartition("blocks.2.")[2] for name in hidden}
    assert any(name.endswith("mixer.out_proj.weight") for name in last)
    assert any("skip" in name for name in last)
    assert any("modulation" in name for name in last)
    others = {name for name, _ in model.named_parameters()} - set(hidden)
    assert others >= {"head.linear.weight", "time_embed.expand.weight", "class_embed.weight", "patch_embed.weight"}
    if mixer == "mamba":
        scan = "blocks.0.mixer.forward_scan"
        assert {f"{scan}.{name}" for name in ("x_proj", "dt_weight")} <= set(hidden)
        assert {f"{scan}.{name}" for name in ("A_log", "D", "conv_weight", "dt_bias")} <= others
    muon, adamw = build_optimizer(model, _recipe("muon").train).parts
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)


def test_muons_step_is_the_polar_factor_with_adamws_rms():
    """lr 0.2 sqrt(max(A, B)) U V^T of the first gradient, after the decay (arXiv:2502.16982, section 2.2)."""
    recipe = _recipe("muon", embed_dim=64)
    model = DiS.from_recipe(recipe)
    optimizer = build_optimizer(model, recipe.train)
    optimizer.set_lr(1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    named = dict(model.named_parameters())
    before = {name: named[name].detach().clone() for name in hidden_matrices(model)}
    optimizer.step()
    for name, weight in before.items():
        A, B = weight.shape
        step = (weight * (1 - 1e-2 * 0.1) - named[name].detach()) / 1e-2
        assert step.square().mean().sqrt() == pytest.approx(0.2, rel=0.3), name
        U, _, Vt = torch.linalg.svd(named[name].grad, full_matrices=False)
        polar = 0.2 * math.sqrt(max(A, B)) * U @ Vt
        assert torch.cosine_similarity(step.flatten(), polar.flatten(), dim=0) > 0.95, name


@pytest.mark.parametrize("nesterov", [True, False])
def test_on_a_cpu_muon_is_pytorchs_without_its_rounding(nesterov):
    """Three steps beside torch.optim.Muon's, whose iterations are in bf16, and beside its formula in float64."""
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov, "ns_steps": 4}
    gradients = [[torch.randn(shape) for shape in ((12, 30), (30, 12), (16, 16))] for _ in range(3)]
    found = []
    for kind, dtype in ((InFloat32, torch.float32), (torch.optim.Muon, torch.float32), (InFloat32, torch.float64)):
        matrices = [torch.nn.Parameter(torch.ones_like(each, dtype=dtype)) for each in gradients[0]]
        optimizer = kind(matrices, adjust_lr_fn="match_rms_adamw", **settings)
        for step in gradients:
            for matrix, gradient in zip(matrices, step, strict=True):
                matrix.grad = gradient.to(dtype)
            optimizer.step()
        found.append(torch.cat([matrix.detach().flatten().double() for matrix in matrices]))
    ours, rounded, exact = found
    assert (ours - exact).abs().max() < 1e-6
    assert (exact - rounded).abs().max() > 1e-4
    assert torch.allclose(ours, rounded, atol=2e-3)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_that_share_muons_iterations_make_the_step_of_one_alone(world):
    shapes = [(12, 30), (30, 12), (16, 16), (4, 40), (16, 16)]
    gradients = [torch.randn(shape) for shape in shapes]
    sent: dict[int, torch.Tensor] = {}

    def steps(ranks, exchange):
        for rank in ranks:
            matrices = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
            muon = InFloat32(matrices, lr=0.02, adjust_lr_fn="match_rms_adamw")
            muon.rank, muon.world, muon.exchange = rank, len(ranks), exchange(rank)
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient.clone()
            muon.step()
            yield [matrix.detach() for matrix in matrices]

    def sends(rank):
        return lambda parts: sent.update({rank: parts[rank].clone()})

    def receives(rank):
        def exchange(parts):
            assert torch.equal(parts[rank], sent[rank])
            for part, other in zip(parts, sent.values(), strict=True):
                part.copy_(other)

        return exchange

    [alone] = steps([0], lambda rank: None)
    list(steps(range(world), sends))
    for shared in steps(range(world), receives):
        assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_turns_at_muons_iterations_are_of_like_cost_and_each_matrix_has_one():
    shapes = [(512, 128)] * 7 + [(128, 256)] * 10 + [(8, 128)] * 14
    turns = take_turns(shapes, 2)
    assert sorted(turns[0] + turns[1]) == list(range(len(shapes)))
    costs = [sum(min(shapes[i]) ** 2 * (2 * max(shapes[i]) + min(shapes[i])) for i in turn) for turn in turns]
    assert max(costs) < 1.1 * min(costs)


def test_the_step_does_not_depend_on_the_gradients_scale():
    recipe, steps = _recipe("muon"), []
    gradients = [torch.randn_like(p) for p in DiS.from_recipe(recipe).parameters()]
    for scale in (1.0, 1e-3):
        torch.manual_seed(0)
        model = DiS.from_recipe(recipe)
        optimizer = build_optimizer(model, recipe.train)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = scale * gradient
        optimizer.step()
        steps.append(model.get_parameter("blocks.1.mixer.in_proj.weight").detach().clone())
    assert torch.allclose(*steps, atol=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


MUON = ['train.optimizer="muon"', 'train.lr_schedule={name="warmup-stable-decay", warmup_steps=2, decay=0.5}']


@pytest.fixture(scope="module")
def muon_run(tiny, digits_file, tmp_path_factory):
    return train(tiny, data=digits_file, out=tmp_path_factory.mktemp("run") / "run", overrides=MUON)


def test_resumed_it_ends_with_the_same_bits(tiny, digits_file, muon_run, tmp_path):
    assert [line["lr"] for line in read_log(muon_run / "metrics.jsonl")] == pytest.approx(
        [1e-3, 1e-3, 4e-3 / 6, 1e-3 / 6]
    )
    run = shutil.copytree(muon_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "00000012")
    train(tiny, data=digits_file, out=run, overrides=MUON)
    assert content(run) == content(muon_run)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [[], ['train.parallel="fsdp2"']])
def test_the_same_with_two_processes(sharding, tiny, digits_file, muon_run, tmp_path):
    run = tmp_path / "run"
    together(*arguments(tiny, digits_file, run, *MUON, *sharding))
    assert losses(run) == pytest.approx(losses(muon_run), rel=1e-3)
    ours, theirs = (load_file(one / "checkpoints" / "00000012" / "optimizer.safetensors") for one in (run, muon_run))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].shape == theirs[name].shape for name in theirs)
