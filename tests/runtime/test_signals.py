"""Held until nothing is half done; a second press does not wait."""
# ruff: noqa: PT012 (where in a block it is raised is what is tested)

import signal
import subprocess
import sys
import threading

import pytest

from discli.runtime.console import progress
from discli.runtime.signals import hold_ctrl_c, safe_place


@pytest.fixture(autouse=True)
def _listening():
    """A shell starts what it puts in the background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


def test_the_first_waits_for_a_safe_place(capfd):
    with pytest.raises(KeyboardInterrupt), hold_ctrl_c():
        press()
        held = True
        safe_place()
    assert held
    assert "again stops at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    safe_place()


def test_the_second_does_not_wait():
    with pytest.raises(KeyboardInterrupt), hold_ctrl_c():
        press()
        press()
        pytest.fail("went on")


def test_one_that_met_no_safe_place_is_raised_at_the_end():
    steps = []
    with pytest.raises(KeyboardInterrupt), hold_ctrl_c():
        press()
        steps.append("all done")
    assert steps == ["all done"]


def test_every_tick_of_a_progress_is_a_safe_place():
    with pytest.raises(KeyboardInterrupt), progress("test", 3, "steps") as ticker:
        ticker.advance()
        press()
        ticker.advance()
        pytest.fail("went on")
    assert ticker.done == 2


def test_an_outer_block_holds_it_for_inner_ones():
    steps = []
    with pytest.raises(KeyboardInterrupt), hold_ctrl_c():
        with hold_ctrl_c():
            press()
        steps.append("after the inner block")
        safe_place()
    assert steps


def test_somebody_elses_handler_stays():
    noted = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        with hold_ctrl_c():
            press()
            safe_place()
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted == [signal.SIGINT]


def test_other_threads_have_nothing_to_hold():
    went = []

    def work():
        with progress("test", 1, "steps") as ticker:
            ticker.advance()
            went.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert went


IN_A_COMMAND = """
import signal, sys, time
from discli.runtime.signals import answer_ctrl_c

class Swallows:
    def __del__(self):
        raise KeyboardInterrupt

def wait():
    for _ in range(500):
        time.sleep(0.01)

answer_ctrl_c()
try:
    {what}
    wait()
except KeyboardInterrupt:
    print("answered", "half" in sys.modules and hasattr(sys.modules["half"], "done"))
"""


def _answer(what, folder):
    done = subprocess.run(
        [sys.executable, "-c", IN_A_COMMAND.format(what=what)], capture_output=True, text=True, cwd=folder, timeout=60
    )
    return done.stdout.strip(), done.stderr


def test_one_that_compiled_code_swallows_is_raised_again(tmp_path):
    assert _answer("Swallows()", tmp_path) == ("answered False", "")


def test_an_import_is_finished_first(tmp_path):
    """Libraries catch whatever an import raises, and go on without what they take for missing."""
    (tmp_path / "half.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\ndone = True\n")
    assert _answer("import half", tmp_path) == ("answered True", "")
