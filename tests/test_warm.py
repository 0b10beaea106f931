"""Processes forked from one that has loaded PyTorch are like those that Python starts."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import warm


def test_it_has_its_own_words_environment_and_folder_and_nothing_of_discli(tmp_path):
    (tmp_path / "mine.py").write_text("NAME = 'mine'")
    code = """
import os, sys
loaded = [name for name in sys.modules if name.startswith("discli")]
import mine
print(__name__, sys.argv[1:], mine.NAME, os.getcwd(), os.environ.get("HOME"), "torch" in sys.modules, loaded)
print("and so", file=sys.stderr)
"""
    done = warm.run("-c", code, "a", 1, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert done.stdout == f"__main__ ['a', '1'] mine {tmp_path} None True []\n"
    assert (done.returncode, done.stderr) == (0, "and so\n")


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("raise SystemExit(75)", 75, ""),
        ("import sys; sys.exit('wrong')", 1, "wrong"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit; atexit.register(print, 'the end', file=__import__('sys').stderr)", 0, "the end"),
    ],
)
def test_it_ends_as_python_does(code, status, says):
    done = warm.run("-c", code)
    assert done.returncode == status
    assert says in done.stderr


def test_what_it_writes_is_there_at_once_and_it_can_be_interrupted_alone():
    process = warm.Process("-c", "import time\nprint('here', flush=True)\ntime.sleep(100)", session=True)
    while process.stdout() != "here\n":
        assert process.poll() is None
        time.sleep(0.01)
    assert os.getpgid(process.pid) == process.pid
    os.killpg(process.pid, signal.SIGINT)
    done = process.wait()
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr
    process.send_signal(signal.SIGKILL)  # nobody is there


def test_as_many_threads_as_it_is_told():
    code = "import torch; print(torch.get_num_threads())"
    found = [warm.run("-c", code, env=os.environ | {"OMP_NUM_THREADS": n}).stdout for n in ("1", "3")]
    assert found == ["1\n", "3\n"]


def test_unseeded_random_numbers_are_others_in_each():
    code = "import numpy, random; print(numpy.random.rand(), random.random())"
    found = [warm.run("-c", code).stdout.split() for _ in range(2)]
    assert not set(found[0]) & set(found[1])


def test_nobody_waits_for_one_whose_end_is_not_told():
    process = warm.Process("-c", "import time; time.sleep(100)")
    tells = int(Path(f"/proc/{process.pid}/stat").read_text().split()[3])
    os.kill(tells, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError):
        process.wait()
