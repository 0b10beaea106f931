"""A step as a graph, its semantics emulated on a CPU: the same bits as without; and what would wait for a GPU."""

import pytest
import torch

from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError
from discli.training import graphs
from discli.training.train import train
from tests import replay
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


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 2)])
def test_where_there_are_no_graphs_it_is_refused(device, processes):
    with pytest.raises(DiscliError, match=r"train\.cuda_graphs") as refused:
        graphs.check_graphs(torch.device(device), processes)
    assert "\n" not in refused.value.message + refused.value.hint
    graphs.check_graphs(torch.device("cuda"), 1)
