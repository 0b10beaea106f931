"""When and on what a run was trained."""

from datetime import UTC, datetime

import torch

from discli import __version__
from discli.runs.logs import read_log
from discli.runs.sessions import record_session

FILE = "sessions.jsonl"


def test_every_start_adds_a_line_and_a_torn_one_is_mended(tmp_path):
    record_session(tmp_path, 0, torch.device("cpu"), processes=1, scan="cpu")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "star')
    record_session(tmp_path, 8, torch.device("cpu"), processes=2, scan="cpu")
    first, second = read_log(tmp_path / FILE)
    assert (first["step"], first["processes"], second["step"], second["processes"]) == (0, 1, 8, 2)
    assert (tmp_path / FILE).read_text().count("\n") == 2
    assert abs((datetime.now(UTC) - datetime.fromisoformat(second["started"])).total_seconds()) < 60
    assert second["discli"] == __version__
    assert second["torch"] == torch.__version__
    assert "cores" in second["device"]


def test_training_records_its_sessions(tiny_run):
    (session,) = read_log(tiny_run / FILE)
    assert session["step"] == 0
    assert session["processes"] == 1
    assert session["precision"] == "fp32" or torch.cuda.is_available()
    assert session["scan"]
