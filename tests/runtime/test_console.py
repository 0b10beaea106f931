"""Progress as a log file and as a terminal show it."""

import io

import pytest
from rich.console import Console

from discli.runtime import console
from discli.runtime.console import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set by hand."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def _printed(monkeypatch, terminal: bool) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=out, force_terminal=terminal, width=120, highlight=False))
    return out


def test_in_a_log_there_is_a_line_with_its_unit_now_and_then_and_none_where_nothing_has_changed(clock, monkeypatch):
    out = _printed(monkeypatch, terminal=False)
    with progress("mine", 100, "steps", counted=(8, "images")) as ticker:
        for clock[0] in range(0, 40, 20):
            ticker.advance(10, "loss 1")
        for clock[0] in range(40, 400, 20):
            ticker.advance(0, "loss 1")
        clock[0] = 400
        ticker.advance(0, "loss 2")
    lines = out.getvalue().splitlines()
    assert lines == [
        "mine: 20/100 steps, 8.0 images/s, 80 s left; loss 1",
        "mine: 20/100 steps, 0.4 images/s, 27 min left; loss 2",
    ]


def test_on_a_terminal_the_unit_is_named_too(monkeypatch):
    out = _printed(monkeypatch, terminal=True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("mine", 1500, "steps", counted=(8, "images")) as ticker:
        ticker.advance(1200)
    assert "1,200/1,500 steps" in out.getvalue()
    assert "images/s" in out.getvalue()
