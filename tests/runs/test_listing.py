"""``discli runs``: rows for all runs, whatever is wrong with them."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from discli.cli.runs import runs as runs_command
from discli.cli.runs_table import runs_table
from discli.runs.listing import list_runs
from discli.runtime.errors import DiscliError


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory) -> Path:
    """One finished, one in a study's trial, one beyond repair, and things that are no runs."""
    folder = tmp_path_factory.mktemp("some") / "runs"
    for place in ("good", "study/trials/skip=add", "broken"):
        shutil.copytree(tiny_run, folder / place)
    score = {"step": 30, "FID": 12.345, "n": 64}
    (folder / "good" / "scores.jsonl").write_text(json.dumps(score) + "\n")
    (folder / "broken" / "run.json").write_text("{")
    (folder / "good" / "samples").mkdir()
    (folder / "study" / "images").mkdir()
    (folder / "circle").symlink_to(folder)
    return folder


def shown(runs: Path, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(runs_table(list_runs(runs), runs, wide=width >= 120))
    return out.getvalue()


def test_a_pipe_has_a_line_for_each_run_with_all_of_it(runs, capsys):
    runs_command(runs)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "state", "step", "loss", "score", "images/s", "size", "changed"]
    rows = {line.split()[0]: line for line in lines}
    assert set(rows) == {"good", "study/trials/skip=add", "broken"}
    assert "finished" in rows["good"]
    assert "30 of 30" in rows["good"]
    assert "12.35 FID" in rows["good"]
    assert "corrupt; run.json is corrupt" in rows["broken"]


@pytest.mark.parametrize("width", [80, 140])
def test_nothing_is_cut_off_in_a_terminal(runs, width):
    text = shown(runs, width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    assert "\u2026" not in text
    for word in ("good", "study/trials/skip=add", "finished", "12.35", "FID", "run.json", "ago", "images/s", "size"):
        assert word in words


def test_json_has_what_the_table_has(runs, capsys):
    runs_command(runs, as_json=True)
    found = {Path(run["folder"]).name: run for run in json.loads(capsys.readouterr().out)}
    assert found["good"]["score"]["name"] == "FID"
    assert found["good"]["score"]["value"] == 12.345
    assert found["good"]["state"] == "finished"
    assert found["broken"]["state"] == "corrupt"
    assert found["broken"]["steps"] is None
    assert found["skip=add"]["loss"] > 0


def test_a_run_itself_may_be_asked_for(runs, capsys):
    assert [run.folder for run in list_runs(runs / "good")] == [runs / "good"]
    runs_command(runs / "good")
    assert str(runs / "good") in capsys.readouterr().out


def test_an_empty_folder_says_what_to_do(tmp_path, capsys):
    assert list_runs(tmp_path) == []
    runs_command(tmp_path)
    captured = capsys.readouterr()
    assert "discli train RECIPE" in captured.err
    assert captured.out == ""
    runs_command(tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    with pytest.raises(DiscliError, match="no folder"):
        list_runs(tmp_path / "nowhere")


def test_the_command_does_not_wait_for_torch(runs):
    code = (
        "import sys; from discli.cli import app; app(['runs', sys.argv[1]], standalone_mode=False);"
        " print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True)
    assert "skip=add" in done.stdout
    assert done.stdout.split()[-1] == "False"
