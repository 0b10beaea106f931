"""A step as a graph, its semantics emulated on a CPU: the same bits as without; and what would wait for a GPU."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from discli.model import empty_network
from discli.model.routing import Route
from discli.recipe import parse_recipe
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.scan.dispatch import assume_backend
from discli.training import graphs
from discli.training.auxiliary import Auxiliary
from discli.training.averaged import Drawn
from discli.training.step_loss import Inputs, StepLoss
from discli.training.train import train
from discli.training.window import Window
from tests import replay
from tests.data.files import contract
from tests.model.small import small_recipe
from tests.tiny_run import content

GRAPHS = "train.cuda_graphs=true"
EVERYTHING = [
    "train.micro_batch=4",
    "model.drop_path_rate=0.2",
    "model.depth=5",
    "train.lr_schedule={name=\"cosine\",warmup_steps=3}",
    "train.ema={name=\"power\",stds=[0.1,0.2],snapshot_every=4}",
    "train.route={outer=1,stop_at=0.6}",
    "train.sra={student=1,teacher=5,stop_at=0.4}",
    "train.dispersive={block=1,together=4}",
]  # fmt: skip


@pytest.fixture
def on_a_cpu(monkeypatch):
    replay.on_a_cpu(monkeypatch.setattr)
    caught = []
    monkeypatch.setattr(graphs, "catch", lambda run: caught.append(run) or replay.catch(run))
    return caught


OTHER = [
    "train.activation_checkpointing=true",
    "train.precision=bf16",
    "train.optimizer=muon",
    "model.mixer=attention",
    "model.conditioning=adaln-zero",
    "model.num_classes=0",
    "diffusion.objective=flow",
    "diffusion.contrastive=0.05",
    "sample.sampler=euler",
]


@pytest.mark.parametrize(
    ("settings", "times"),
    [(EVERYTHING, 3), (OTHER, 1)],  # three: with routing and further losses, without the one, without either
)
def test_a_run_of_graphs_has_the_bits_of_one_without(settings, times, on_a_cpu, recipe, digits_file, tmp_path):
    settings = [*settings, "train.steps=8"]
    plain = train(recipe, data=digits_file, out=tmp_path / "plain", overrides=settings)
    assert not on_a_cpu
    graphed = train(recipe, data=digits_file, out=tmp_path / "graphed", overrides=[*settings, GRAPHS])
    assert len(on_a_cpu) == times
    assert content(graphed, 8) == content(plain, 8)


def test_one_session_may_use_graphs_and_the_next_none(on_a_cpu, recipe, digits_file, tmp_path):
    plain = train(recipe, data=digits_file, out=tmp_path / "plain")
    run = train(recipe, data=digits_file, out=tmp_path / "run", overrides=["train.steps=6", GRAPHS])
    train(recipe, data=digits_file, out=run, overrides=["train.steps=9"])
    train(recipe, data=digits_file, out=run, overrides=[GRAPHS])
    assert content(run) == content(plain)


def test_bad_steps_are_skipped_and_rolled_back_as_without(on_a_cpu, recipe, digits_file, tmp_path, monkeypatch):
    from discli.training.trainer import Trainer

    pass_through = Trainer._forward_backward

    def breaks(self, batch):
        norm = pass_through(self, batch)
        bad = batch.step == 2 or (batch.step in (6, 7) and self.state.rollbacks == 0)
        return norm * float("nan") if bad else norm

    monkeypatch.setattr(Trainer, "_forward_backward", breaks)
    bad = ["train.skip_limit=2"]
    plain = train(recipe, data=digits_file, out=tmp_path / "plain", overrides=bad)
    graphed = train(recipe, data=digits_file, out=tmp_path / "graphed", overrides=[*bad, GRAPHS])
    assert content(graphed) == content(plain)
    assert [line["event"] for line in read_log(graphed / "events.jsonl")].count("rolled back") == 1
    assert len(on_a_cpu) == 2  # the window of after the roll-back is another


def test_what_draws_within_would_be_found(on_a_cpu):
    """The emulation repeats numbers of Python's, as a graph does."""
    steps = iter(range(100))
    weight = torch.zeros(1, requires_grad=True)

    def passes(inputs):
        (weight * (inputs + next(steps))).sum().backward()
        return weight.grad.clone()

    def forget():
        weight.grad = None

    graph = graphs.StepGraph(passes, forget, [weight])
    found = [graph(torch.tensor([value]), None).item() for value in (10.0, 20.0)]
    assert found == [10.0 + 3, 20.0 + 3]
    assert weight.grad.item() == 23.0


class _WithoutWaiting(TorchDispatchMode):
    """Refuses copies between host and GPU; fake tensors have no values to read, and so refuse that."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if copies and len({t.device.type for t in (*args, answer) if isinstance(t, torch.Tensor)}) > 1:
            raise AssertionError(f"{func} between host and GPU")
        return answer


@pytest.mark.parametrize(
    ("model", "train", "diffusion"),
    [
        ({}, {}, {}),
        (
            {"mixer": "attention", "conditioning": "adaln-zero"},
            {"layersync": {"early": 1, "late": 5}, "route": {"outer": 1}},
            {},
        ),
        ({"mixer": "hydra", "scan_order": "zigzag"}, {"dispersive": {"together": 2}}, {"objective": "flow"}),
        (
            {"mixer": "mamba3", "grid_conv": "depthwise", "head_conv": "residual"},
            {},
            {"objective": "flow", "contrastive": 0.05},
        ),
    ],
)
def test_no_loss_reads_from_a_gpu_or_copies_to_it(model, train, diffusion):
    """What a graph could not catch, of forward passes and losses; the second time, for the first makes ready."""
    tree = small_recipe(**model).model_dump(mode="json")
    sampler = {"flow": "euler"}.get(diffusion.get("objective"), "ddim")
    recipe = parse_recipe(
        tree | {"diffusion": diffusion, "sample": {"sampler": sampler}, "train": tree["train"] | train}, "small"
    )
    gpu, b = torch.device("cuda"), 4
    engine = SimpleNamespace(device=gpu, autocast=nullcontext)
    network = empty_network(recipe)
    with FakeTensorMode(allow_non_fake_inputs=True), assume_backend("triton"):
        network.to_empty(device=gpu)
        auxiliary = Auxiliary(recipe, contract(), network, engine)
        step_loss = StepLoss(recipe, contract(), network, network, auxiliary, engine)
        window = Window(gpu, auxiliary=auxiliary.names)
        with gpu:
            x0, noise, other = (torch.empty(b, 3, 8, 8) for _ in range(3))
            uniforms, y = torch.empty(b), torch.zeros(b, dtype=torch.int64)
            keep = torch.empty(len(network.drop_path_rates()), b)
            kept = torch.zeros(b, 8, dtype=torch.int64)
        t = step_loss.diffusion.timesteps(uniforms)
        x_t, t_model = step_loss.diffusion.noisy(x0, t, noise)
        route = Route(kept, recipe.train.route.outer) if recipe.train.route else None
        drawn = Drawn(x0, noise, t, y, uniforms)
        inputs = Inputs(
            drawn, x_t, t_model, keep, route, other if diffusion.get("contrastive") else None, auxiliary.at(0), {}
        )
        step_loss(inputs, window)
        with _WithoutWaiting():
            loss = step_loss(inputs, window)
        assert loss.device.type == "cuda"
        with pytest.raises(Exception, match="between host and GPU"), _WithoutWaiting():
            loss.cpu()


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 2)])
def test_where_there_are_no_graphs_it_is_refused(device, processes):
    with pytest.raises(DiscliError, match=r"train\.cuda_graphs") as refused:
        graphs.check_graphs(torch.device(device), processes)
    assert "\n" not in refused.value.message + refused.value.hint
    graphs.check_graphs(torch.device("cuda"), 1)
