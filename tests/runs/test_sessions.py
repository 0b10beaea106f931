"""When and on what a run was trained."""

from datetime import UTC, datetime

import torch

from discli import __version__
from discli.runs.logs import read_log
from discli.runs.sessions import first_precision, record_session

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


def test_threads_are_those_of_all_processes_on_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    record_session(tmp_path, 0, torch.device("cpu"), processes=2)
    assert read_log(tmp_path / FILE)[0]["cpu_threads"] == 2 * torch.get_num_threads()


def test_the_first_session_s_precision_is_remembered(tmp_path):
    assert first_precision(tmp_path) is None
    for precision in ("bf16", "fp32"):
        record_session(tmp_path, 0, torch.device("cpu"), precision=precision)
    assert first_precision(tmp_path) == "bf16"


def test_training_records_its_sessions(tiny_run):
    (session,) = read_log(tiny_run / FILE)
    assert session["step"] == 0
    assert session["processes"] == 1
    assert session["precision"] in ("fp32", "bf16")
    assert session["scan"]
