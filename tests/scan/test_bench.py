"""The benchmark of the scan does not run what would take too long."""

import json
import sys

from tests.bench import scan


def test_the_quadratic_loop_is_left_out_at_the_first_length_too(monkeypatch, capsys):
    command = "scan --json --device cpu --lengths 32 --tokens 64 --d-inner 4 --d-state 2 --rounds 1 --limit 0"
    skipped = ["--skip", "cpu", "torch loop", "ref-unbind"]
    monkeypatch.setattr(sys, "argv", [*command.split(), *skipped])
    scan.main()
    rows = {row["backend"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert "skipped" in rows["indexing"]
    assert rows["unbind"]["forward_backward_ms"] > 0
