"""Processes of Python that need not load PyTorch first: each is forked from one that has loaded it, once.

Loading takes a process four seconds of a processor; most tests of processes are over in one. What is forked has
nothing of discli in memory, so it may run a changed copy (PYTHONPATH), and it is a process like any other: it can
be killed, meets others, and ends as Python ends. Only what Python, PyTorch and numba read from the environment while
they start is as the tests' own process has it, and str hashes alike in all of them: that something does not depend on
the order of a set is shown by processes of subprocess alone.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
# What takes long of all that a training, a sampling or a score comes to load.
LOADED = (
    *("torch", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor"),
    *("h5py", "numba", "numba.core.types", "numba.np.arraymath", "pydantic.main", "safetensors.torch", "scipy.linalg"),
)


class Process:
    """``python WORDS``: ``-m module ...`` or ``-c code ...``."""

    def __init__(
        self, *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, session: bool = False
    ):
        """``session``: with a process group of its own, as a terminal's command has."""
        self.args = [str(word) for word in words]
        self.returncode: int | None = None
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        mine, theirs = os.pipe()
        request = {
            "words": self.args,
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
            "session": session,
        }
        descriptors = [theirs, self._stdout.fileno(), self._stderr.fileno()]
        socket.send_fds(_source(), [json.dumps(request).encode()], descriptors)
        os.close(theirs)
        self._news = os.fdopen(mine, "rb", buffering=0)
        self.pid = int(self._news.readline())
        os.set_blocking(mine, False)

    def poll(self) -> int | None:
        """Its status, once it has ended: of one that a signal ended, minus the signal."""
        if self.returncode is None and (line := self._news.read(100)) is not None:  # None: there is nothing to read
            if not line:  # who waited for it was killed
                raise RuntimeError(f"nobody knows how {self.args} ended")
            self.returncode = int(line)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To one that has ended, nothing."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stdout(self) -> str:
        """What it has written so far."""
        return _text(self._stdout.fileno())

    def stderr(self) -> str:
        return _text(self._stderr.fileno())

    def wait(self) -> subprocess.CompletedProcess[str]:
        while self.poll() is None:
            time.sleep(0.005)
        return subprocess.CompletedProcess(self.args, self.returncode, self.stdout(), self.stderr())


def run(*words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None):
    """As subprocess.run does, with both streams kept."""
    return Process(*words, env=env, cwd=cwd).wait()


def _text(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode()


@cache
def _source() -> socket.socket:
    """Where to ask for processes. The one that makes them ends with the tests: nobody is left to ask it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
    # Of a session of its own: Ctrl-C, for the tests, is for them to hand on.
    subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    theirs.close()
    return ours


def _next_request(asked: socket.socket) -> tuple[dict, list[int]]:
    """Returns in a process that is forked for it, once for each request."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for processes
    while True:
        request, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            asked.close()
            return json.loads(request), descriptors
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_and_report(news: int, *others: int) -> None:
    """Returns in the process that is wanted; the other says its number and, in the end, its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(news)
        return
    for descriptor in others:
        os.close(descriptor)
    os.write(news, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(news, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(words: list[str], env: dict[str, str], cwd: str, session: bool) -> None:
    """Run them as ``python WORDS`` would."""
    if session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes what runs in the background deaf to it
    if (threads := env.get("OMP_NUM_THREADS")) != os.environ.get("OMP_NUM_THREADS") and threads:
        sys.modules["torch"].set_num_threads(int(threads))
    sys.modules["numpy"].random.seed()  # as in every new process, other numbers; torch and random do so by themselves
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:1] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    match words:
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _main() -> None:
    for module in LOADED:
        importlib.import_module(module)
    gc.freeze()  # or the first collection in each process would copy all memory that has been shared until then
    request, descriptors = _next_request(socket.socket(fileno=int(sys.argv[1])))
    _fork_and_report(*descriptors)
    for descriptor, stream in zip(descriptors[1:], (1, 2), strict=True):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    try:
        _become(**request)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        _end(end.code if isinstance(end.code, int) else int(end.code is not None))
    _end(0)  # what else is raised is left to Python


def _end(status: int) -> NoReturn:
    """As Python ends, but for taking apart all that was loaded, which takes longer than most of these processes."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    _main()
