"""The program for the day a GPU is at hand: every step's code has run, and what goes wrong is told."""

import json
import sys

import pytest

from tests.bench import device, device_steps, model
from tests.bench.device_steps import STEPS, Step


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_step_can_be_rehearsed(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(sys, "argv", ["device", "--out", str(tmp_path), "--budget", "3000", "--rehearse"])
    device.main()
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [step.name for step in STEPS if step.name != device_steps.ONCE]
    assert {row["status"] for row in rows} == {"passed"}
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {row['step']} |" in table for row in rows)


def test_what_fails_and_what_no_longer_fits_is_told(tmp_path, monkeypatch):
    """Steps of which there are none: their processes end at once."""
    steps = [Step(name, "nothing", 60, lambda case, note: None, essential=name == "b") for name in "abc"]
    rows = device.run_all(steps[:1], tmp_path, 0, False)
    assert [row["status"] for row in rows] == ["skipped"]
    monkeypatch.setattr(device, "run_steps", lambda steps, *rest: [{
        "format": 1, "step": step.name, "seconds": 1.0, "status": "failed" if step.name == "b" else "passed",
        "result": {"ms": 1.5}, "error": "broken | here",
    } for step in steps])  # fmt: skip
    rows = device.run_all(steps, tmp_path, 100, False)
    assert [row["status"] for row in rows] == ["passed", "failed", "skipped"]
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 3
    assert "| b | failed | broken / here |" in device.table(rows, False)


def test_each_step_leaves_what_it_found_however_it_ends(tmp_path, monkeypatch):
    def breaks(case, note):
        note("first", 1)
        raise ValueError("no")

    steps = [Step("good", "", 60, lambda case, note: note("ms", 1.5)), Step("bad", "", 60, breaks)]
    steps.append(Step("never begun", "", 60, breaks))
    monkeypatch.setattr(device, "STEPS", steps)
    assert not device.child(["good", "bad"], tmp_path, False)
    (tmp_path / "log").write_text("killed")
    rows = [device._row(step, tmp_path, tmp_path / "log", "timeout") for step in steps]
    assert [(row["status"], row["result"]) for row in rows] == [
        ("passed", {"ms": 1.5}), ("failed", {"first": 1}), ("timeout", {}),
    ]  # fmt: skip
    assert "ValueError: no" in rows[1]["error"]
    assert rows[2]["error"] == "killed"


@pytest.mark.parametrize(
    ("ratios", "said"),
    [({256: 0.5, 1024: 2.0}, "512"), ({256: 1.1, 1024: 2.0}, "below 256"), ({256: 0.1, 1024: 0.5}, "above 1024")],
)
def test_the_crossover(ratios, said):
    assert model.crossover(ratios) == said
