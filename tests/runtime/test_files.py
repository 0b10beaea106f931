"""A name stands for the old content or the new, never for half of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from discli.runtime.files import write_beside, write_text


def test_what_fails_while_writing_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_beside(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


def test_who_may_read_a_file_is_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_beside(tmp_path / "weights", lambda temporary: save_file({"a": torch.zeros(2)}, temporary))
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


def test_an_error_names_the_file_by_its_own_name(tmp_path):
    def fill(temporary: Path) -> None:
        with Path("/dev/full").open("w") as full:
            full.write("x")

    with pytest.raises(OSError, match="No space left on device") as failed:
        write_beside(tmp_path / "a.json", fill)
    assert failed.value.filename == str(tmp_path / "a.json")


def test_a_full_disk_is_said_and_how_to_go_on():
    code = (
        "import sys\n"
        "from discli.cli import entry\n"
        "def full(**_): open('/dev/full', 'w', buffering=1).write('x\\n')\n"
        "entry.app = full\n"
        "sys.argv = ['discli', 'sample']\n"
        "entry.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "Free some space and run the same command again" in done.stderr
