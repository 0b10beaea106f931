"""``discli info`` on runs and checkpoints."""

import json
import shutil

import pytest

from discli.cli.info import info
from discli.runs.logs import read_log
from discli.runtime.errors import DiscliError


def _json(what, capsys):
    info(str(what), as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_run_says_how_far_it_is_and_what_it_takes(tiny_run, capsys):
    record = _json(tiny_run, capsys)
    assert (record["kind"], record["state"], record["step"], record["steps"]) == ("run", "finished", 30, 30)
    assert record["loss"] == read_log(tiny_run / "metrics.jsonl")[-1]["loss"]
    assert record["images_per_second"] > 0
    checkpoint = tiny_run / "checkpoints" / "00000030"
    assert record["checkpoints"]["30"] == sum(path.stat().st_size for path in checkpoint.iterdir())
    assert record["parameters"]["total"] > 0
    # The estimate leaves out what safetensors' headers and state.json take.
    assert record["disk"]["checkpoint"] == pytest.approx(record["checkpoints"]["30"], rel=0.2)


def test_the_table_names_the_last_score(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = tmp_path / "scored"
    shutil.copytree(tiny_run, run)
    (run / "scores.jsonl").write_text(json.dumps({"step": 30, "FD (random features)": 12.5, "n": 200}) + "\n")
    info(str(run))
    text = capsys.readouterr().out
    for said in ("30 of 30", "FD (random features) 12.5 at step 30, n = 200", "images/s", "checkpoints", "parameters"):
        assert said in text


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_checkpoint_says_what_it_is_of(tiny_run, capsys, form):
    folder = tiny_run / "checkpoints" / "00000030"
    record = _json(folder if form == "folder" else folder / "ema.safetensors", capsys)
    assert record["kind"] == "checkpoint"
    assert record["contract"]["num_samples"] == 200
    assert record["name"] == "tiny"
    assert record["files"]["ema.safetensors"] == (folder / "ema.safetensors").stat().st_size
    assert record["step"] == 30


def test_a_broken_run_is_described_as_far_as_it_goes(tiny_run, tmp_path, capsys):
    run = tmp_path / "broken"
    shutil.copytree(tiny_run, run)
    (run / "run.json").write_text("{")
    record = _json(run, capsys)
    assert record["state"] == "corrupt"
    assert record["problems"]
    assert "parameters" not in record


def test_what_is_neither_is_refused(tiny_run, tmp_path):
    with pytest.raises(DiscliError, match="neither a run nor a checkpoint"):
        info(str(tmp_path))
    with pytest.raises(DiscliError, match="--set"):
        info(str(tiny_run), overrides=["train.steps=3"])
    with pytest.raises(DiscliError, match="No recipe at nothing-like-it"):
        info("nothing-like-it")


def test_copies_and_circles_beside_checkpoints_are_passed_over(tiny_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "checkpoints" / "00000030.bak").mkdir()
    (run / "checkpoints" / "round").symlink_to(run / "checkpoints")
    assert list(_json(run, capsys)["checkpoints"]) == ["30"]
