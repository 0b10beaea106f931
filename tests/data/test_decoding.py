"""Batches come back in order and complete, from this process or from workers, which leave nothing behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from discli.data.decoding import ImageTransform, Workers, decode_batches
from discli.data.sources import open_source
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError
from tests.data.makers import pixels, saved, write_zip


@pytest.fixture
def source(tmp_path):
    files = {f"{k:02d}.png": saved(pixels(k, 8, 8)) for k in range(20)}
    files["03.png"], files["17.png"] = b"", b"text"
    files["05.png"] = saved(pixels(5, 6, 20))
    return open_source(write_zip(tmp_path / "a.zip", files))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_order_and_name_what_they_skip(source, workers):
    with Workers(workers) as decoders:
        batches = list(decode_batches(source, range(2, 20), 4, ImageTransform((Size(8, 8),)), decoders))
    assert [(batch.start, batch.end) for batch in batches] == [(2, 6), (6, 10), (10, 14), (14, 18), (18, 20)]
    assert [batch.skipped for batch in batches if batch.skipped] == [
        [(3, "empty file (0 bytes)")],
        [(17, "not an image in any known format")],
    ]
    assert [batch.upscaled for batch in batches] == [1, 0, 0, 0, 0]
    together = np.concatenate([batch.images for batch in batches])
    assert together.shape == (16, 3, 8, 8)
    assert (together[-1] == pixels(19, 8, 8).transpose(2, 0, 1)).all()


def test_small_images_are_skipped_where_asked(source):
    (batch,) = decode_batches(source, range(4, 7), 4, ImageTransform((Size(8, 8),), too_small="skip"), Workers(0))
    assert batch.skipped == [(5, "6 x 20 pixels: smaller than the crop (--too-small skip)")]
    assert (len(batch.images), batch.upscaled) == (2, 0)


class KillsItsProcess:
    def read(self, locator):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_said_so(source):
    object.__setattr__(source, "reader", KillsItsProcess())
    with Workers(1) as decoders, pytest.raises(DiscliError, match="decoding process died") as refused:
        list(decode_batches(source, range(20), 4, ImageTransform((Size(8, 8),)), decoders))
    assert "--workers" in refused.value.hint


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_ctrl_c_leaves_workers_alone_even_while_they_start(source):
    with Workers(2) as decoders:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
        batches = list(decode_batches(source, range(20), 4, ImageTransform((Size(8, 8),)), decoders))
    assert len(batches) == 5


PARENT = """
import sys
from pathlib import Path
from discli.data.decoding import ImageTransform, Workers, decode_batches
from discli.data.sources import open_source
from discli.recipe.size import Size
if __name__ == "__main__":
    workers = Workers(1).__enter__()
    next(decode_batches(open_source(Path(sys.argv[1])), range(20), 1, ImageTransform((Size(8, 8),)), workers))
    import multiprocessing
    print(multiprocessing.active_children()[0].pid, flush=True)
    import time
    time.sleep(60)
"""


def test_workers_end_with_a_parent_that_was_killed(source, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, script, source.path], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


UNGUARDED = """
import sys
from pathlib import Path
from discli.data.decoding import ImageTransform, Workers, decode_batches
from discli.data.sources import open_source
from discli.recipe.size import Size
with Workers(1) as workers:
    source = open_source(Path(sys.argv[1]))
    print(len(list(decode_batches(source, range(20), 10, ImageTransform((Size(8, 8),)), workers))))
"""


def test_a_script_needs_no_guard_around_it(source, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, script, source.path]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (0, "2\n"), ended.stderr


def test_workers_import_no_torch():
    code = "import sys, discli.data.decoding; sys.exit('torch' in sys.modules or 'h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
