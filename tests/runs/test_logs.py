"""Logs that are cut back to where a run goes on."""

from discli.runs.logs import Log, Logs, read_log


def test_a_torn_last_line_is_dropped_and_later_steps_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "loss": 1.0}\n{"step": 6, "loss": 0.5}\n{"step": 9, "loss": 0.4}\n{"step": 12, "lo')
    log = Log(path, 6, 0)
    log.write({"step": 9, "loss": 0.3})
    log.close()
    assert path.read_text() == '{"step": 3, "loss": 1.0}\n{"step": 6, "loss": 0.5}\n{"step": 9, "loss": 0.3}\n'


def test_how_a_run_went_wrong_outlasts_its_roll_back(tmp_path):
    """Steps 9 and 10 fail, back to 8; a later resumption from 8 must not forget, one from before must."""
    logs = Logs(tmp_path, 0, 0)
    for step in (9, 10):
        logs.events.write({"step": step, "event": "skipped", "rollbacks": 0})
    logs.metrics.write({"step": 9})
    logs.roll_back(8)
    logs.events.write({"step": 9, "event": "skipped", "rollbacks": 1})
    logs.close()
    assert read_log(tmp_path / "metrics.jsonl") == []

    Logs(tmp_path, 8, 1).close()
    assert [line["rollbacks"] for line in read_log(tmp_path / "events.jsonl")] == [0, 0]
    Logs(tmp_path, 8, 0).close()
    assert read_log(tmp_path / "events.jsonl") == []
