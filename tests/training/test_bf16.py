"""Training in bfloat16 on a CPU: as exact as in float32."""

import pytest
import torch

from discli.runs.logs import read_log
from discli.runtime import devices
from discli.training.train import train
from tests.tiny_run import RECIPE, content, losses

CPU = {"device": "cpu"}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def bf16_is_faster(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: True)
    monkeypatch.setattr(devices, "bf16_gain_on_cpu", lambda: 2.0)


def test_resumed_on_two_threads_it_ends_with_the_same_bits(recipe, digits_file, tmp_path, bf16_is_faster, monkeypatch):
    undisturbed = train(recipe, data=digits_file, out=tmp_path / "undisturbed", **CPU)
    resumed = tmp_path / "resumed"
    train(recipe, data=digits_file, out=resumed, overrides=["train.steps=9"], **CPU)
    monkeypatch.setattr(devices, "bf16_gain_on_cpu", lambda: 0.5)  # another machine
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(recipe, data=digits_file, out=resumed, **CPU)
    finally:
        torch.set_num_threads(before)
    assert [line["precision"] for line in read_log(resumed / "sessions.jsonl")] == ["bf16", "bf16"]
    assert content(resumed) == content(undisturbed)


def test_it_learns_what_float32_learns(recipe, digits_file, tmp_path):
    wide, narrow = (
        losses(train(recipe, data=digits_file, out=tmp_path / name, overrides=[f"train.precision={name}"], **CPU))
        for name in ("fp32", "bf16")
    )
    assert wide != narrow
    assert narrow == pytest.approx(wide, rel=0.01)
