"""Studies as a user meets them: real cells in real processes, killed, continued, extended and failing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from discli.ablate import ablate, find_cell
from discli.ablate_cell import plan_recipe, run_cell
from discli.ablate_plan import make_plan, print_plan
from discli.errors import DiscliError
from discli.recipe import load_study
from discli.training.logs import read_log
from tests.tiny_run import RECIPE

STUDY = """
name = "skips"
base = "tiny.toml"
seeds = {seeds}
budget.steps = {steps}
[axes]
model.skip = {skips}
[score]
features = "random"
n = 8
curve_points = 2
curve_n = 8
pictures = 3
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a study beside its base; cells run in this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.toml").write_text(RECIPE)

    def study(skips='["concat", "none"]', steps=6, seeds="[0, 1]", more=""):
        (tmp_path / "study.toml").write_text(STUDY.format(skips=skips, steps=steps, seeds=seeds) + more)
        return tmp_path / "study.toml"

    return study


def finished(out):
    return {str(path.parent.relative_to(out / "cells")): path.stat().st_mtime_ns for path in out.rglob("result.json")}


POINT = """
[[points]]
name = "{name}"
train.lr = {lr}
train.skip_limit = 1
"""


def test_a_study_reports_what_failed_and_runs_only_what_is_new(write, digits_file, tmp_path):
    one_seed = {"skips": '["none"]', "seeds": "[0]"}
    good, other = POINT.format(name="good", lr=1e-3), POINT.format(name="other", lr=2e-3)
    out = ablate(write(more=good, **one_seed), data=digits_file)
    first = finished(out)
    assert first.keys() == {"good,skip=none/seed-0"}
    result = json.loads((out / "cells/good,skip=none/seed-0/result.json").read_text())
    assert [line["step"] for line in result["curve"]] == [3, 6]
    assert result["steps"] * 8 == result["images"] == 48
    assert result["eval"]["samples"]["n"] == 8
    assert result["peak_memory"] > 1e7

    bad = POINT.format(name="bad", lr=1e30)  # its numbers are soon not finite
    with pytest.raises(DiscliError, match="1 of 2 cells failed") as caught:
        ablate(write(more=good + bad + other, **one_seed), data=digits_file, jobs=2)
    assert caught.value.status == 1
    after = finished(out)
    assert after == first | {"other,skip=none/seed-0": after["other,skip=none/seed-0"]}
    report = (out / "report.md").read_text()
    assert "2 of 3 cells finished" in report
    assert "Failed: bad,skip=none/seed-0" in report
    assert "not finite" in report


def test_a_cell_depends_on_its_seed_and_settings_alone(write, digits_file, tmp_path):
    study, cells = load_study(write())
    again, first, other_seed = (
        run_cell(study, cell, tmp_path / name, digits_file)
        for name, cell in (("again", cells[0]), ("first", cells[0]), ("other seed", cells[1]))
    )
    assert again["score"] == first["score"] != other_seed["score"]
    assert again["loss"] == first["loss"] != other_seed["loss"]
    strips = [(tmp_path / name / "pictures.png").read_bytes() for name in ("again", "first", "other seed")]
    assert strips[0] == strips[1] != strips[2]


def test_killed_with_its_cells_it_goes_on(write, digits_file, tmp_path):
    path = write(skips='["concat"]', steps=150, seeds="[0]")
    command = [sys.executable, "-m", "discli", "ablate", str(path), "--data", str(digits_file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs/ablate-skips/cells/skip=concat/seed-0/run"
    deadline = time.monotonic() + 120
    while not any(line["step"] >= 6 for line in read_log(run / "metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The cell is told by the kernel, writes its checkpoint and ends: its lock is free again.
    while subprocess.run(["flock", "--nonblock", run / ".lock", "true"]).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stopped_at = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < stopped_at < 150
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (run.parent / "log.txt").read_text()
    assert f"going on at step {stopped_at}" in log
    steps = [line["step"] for line in read_log(run / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_a_changed_study_is_refused_before_anything_runs(write, digits_file, tmp_path):
    study, cells = load_study(write())
    out = tmp_path / "out"
    run_cell(study, cells[0], out / "cells" / cells[0].name, digits_file)
    changed, cells = load_study(write(steps=7))
    with pytest.raises(DiscliError, match=r"skip=concat/seed-0.*train.score.every|train.steps"):
        make_plan(changed, cells, out)


def test_equal_flops_give_cheap_cells_more_steps(write):
    path = write()
    path.write_text(path.read_text().replace("budget.steps = 6", "budget.flops = 1e9"))
    study, cells = load_study(path)
    plan = make_plan(study, cells, path.parent)
    steps = {p.cell.point.name: p.recipe.train.steps for p in plan}
    assert steps["skip=none"] > steps["skip=concat"]
    flops = [p.training_flops for p in plan]
    assert max(abs(each - 1e9) for each in flops) < 0.03e9


def test_a_dry_run_prints_every_cell_and_writes_nothing(write, capsys):
    path = write()
    out = ablate(path, dry_run=True, as_json=True)
    assert not out.exists()
    plan = json.loads(capsys.readouterr().out)
    assert [cell["cell"] for cell in plan["cells"]] == [c.name for c in load_study(path)[1]]
    assert all(cell["parameters"] > 1000 and cell["disk"] > 0 and cell["seconds"] > 0 for cell in plan["cells"])
    ablate(path, dry_run=True)
    shown = capsys.readouterr()
    assert "skip=none/seed-1" in shown.out
    assert "4 of 4 cells to run" in shown.err


def test_cells_are_shared_by_processes_and_found_by_number_or_name(write, monkeypatch):
    _, cells = load_study(write())
    assert find_cell(cells, "2") is cells[2] is find_cell(cells, "skip=none/seed-0")
    with pytest.raises(DiscliError, match="number from 0 to 3"):
        find_cell(cells, "4")


def test_ranks_run_disjoint_cells(write, digits_file, tmp_path):
    """Two processes with torchrun's variables; each trains alone."""
    command = [sys.executable, "-m", "discli", "ablate", str(write(skips='["none"]')), "--data", str(digits_file)]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all("1 to run here" in text for text in said)
    assert len(finished(tmp_path / "runs/ablate-skips")) == 2
    assert "2 of 2 cells finished" in (tmp_path / "runs/ablate-skips/report.md").read_text()


def test_planning_alone_costs_no_network(write, capsys):
    """The paper's largest cells can be planned on a laptop: sizes come from the meta device."""
    study, cells = load_study("scaling")
    recipe = plan_recipe(study, cells[-1])
    assert recipe.train.score.every == recipe.train.steps // study.score.curve_points
    print_plan(study, make_plan(study, cells[-1:], write().parent / "nowhere"), as_json=True)
    [cell] = json.loads(capsys.readouterr().out)["cells"]
    assert cell["seconds"] is None
    assert cell["parameters"] > 900e6
