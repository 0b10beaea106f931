"""Checkpoints: whole or not there, damage noticed, a full disk survived."""

import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from discli.runs.checkpoint import (
    newest_checkpoint,
    prune,
    read_state,
    read_tensors,
    verify_checkpoint,
    write_checkpoint,
)
from discli.runtime.errors import DiscliError


def _write(run, step, value=0.0):
    files = {"model": {"w": torch.full((100,), value)}, "ema": {"w": torch.full((100,), -value)}}
    return write_checkpoint(run, step, files, {"note": "x"}, {"recipe": "{}"})


def test_what_was_written_is_read_back(tmp_path):
    folder = _write(tmp_path, 7, 1.5)
    assert newest_checkpoint(tmp_path) == folder
    assert read_state(folder)["step"] == 7
    assert read_state(folder)["note"] == "x"
    assert torch.equal(read_tensors(folder, "ema")["w"], torch.full((100,), -1.5))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "state", "state-type"])
def test_a_damaged_newest_is_named_and_the_one_before_used(tmp_path, capsys, damage):
    older, newest = _write(tmp_path, 1), _write(tmp_path, 2)
    file = newest / "ema.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[:-10])
    elif damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "remove":
        file.unlink()
    else:
        (newest / "state.json").write_text('{"format": 1, ' if damage == "state" else '[1, "two"]')
    assert verify_checkpoint(newest) is not None
    assert newest_checkpoint(tmp_path) == older
    assert str(newest.name) in capsys.readouterr().err.replace("\n", "")


def test_what_cannot_be_read_just_now_is_not_damaged(tmp_path):
    """Training would go on from the one before it, and delete the newest for being in its way."""
    newest = _write(tmp_path, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (newest / "state.json").open() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            with pytest.raises(DiscliError, match="Too many open files") as refused:
                verify_checkpoint(newest)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "may well be whole" in refused.value.hint
    assert newest_checkpoint(tmp_path) == newest


def test_a_digit_of_the_state_that_changed_is_damage(tmp_path):
    older, newest = _write(tmp_path, 1), _write(tmp_path, 2)
    state = newest / "state.json"
    state.write_text(state.read_text().replace('"note": "x"', '"note": "y"'))
    assert verify_checkpoint(newest) == "state.json does not match its hash"
    assert newest_checkpoint(tmp_path) == older


def test_a_checkpoint_under_another_steps_name_is_damaged(tmp_path):
    _write(tmp_path, 2).rename(tmp_path / "checkpoints" / "00000003")
    assert verify_checkpoint(tmp_path / "checkpoints" / "00000003") == "state.json is of step 2"


def test_the_newest_is_the_highest_number_and_not_the_last_in_the_alphabet(tmp_path):
    _write(tmp_path, 99_999_999)
    newest = _write(tmp_path, 100_000_000)
    for other in ("\u00b2", "00000030.bak"):
        (tmp_path / "checkpoints" / other).mkdir()
    assert newest_checkpoint(tmp_path) == newest


def test_names_in_brackets_are_no_colours(tmp_path, capsys):
    folder = _write(tmp_path / "[/x]", 2)
    (folder / "state.json").write_text('{"format": 1, "step": 2, "files": {"[/y]": {}}}')
    assert newest_checkpoint(tmp_path / "[/x]") is None
    assert "[/y] is missing" in capsys.readouterr().err


def test_pruning_keeps_the_last_and_every_multiple(tmp_path):
    for step in range(10, 80, 10):
        _write(tmp_path, step)
    (tmp_path / "checkpoints" / ".writing-00000090").mkdir()
    (tmp_path / "snapshots").mkdir()
    for name in (".00000080-0.05.safetensors.123.writing", "00000070-0.05.safetensors"):
        (tmp_path / "snapshots" / name).touch()
    prune(tmp_path, 70, keep_last=2, keep_every=30)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000030", "00000060", "00000070"]
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["00000070-0.05.safetensors"]


def test_a_damaged_later_checkpoint_does_not_push_out_the_good_one(tmp_path):
    """Step 8 was damaged, the run went on from before it, and its next checkpoint is at 6."""
    for step in (4, 8):
        _write(tmp_path, step)
    (tmp_path / "checkpoints" / "00000008" / "ema.safetensors").unlink()
    good = _write(tmp_path, 6)
    prune(tmp_path, 6, keep_last=1, keep_every=None)
    assert newest_checkpoint(tmp_path) == good


def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_is_needed(tmp_path):
    """A file size limit makes the write fail half-way, as a full disk does."""
    older = _write(tmp_path, 1)
    code = textwrap.dedent(f"""
        import resource, signal, sys
        from pathlib import Path
        import torch
        from discli.runtime.errors import DiscliError
        from discli.runs.checkpoint import write_checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            write_checkpoint(Path({str(tmp_path)!r}), 2, {{"model": {{"w": torch.zeros(1_000_000)}}}}, {{}}, {{}})
        except DiscliError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "it needs 4 MB, the disk, or a quota, was full before" in done.stdout  # the room that there is would do
    assert "untouched" in done.stdout
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [older.name]
    assert newest_checkpoint(tmp_path) == older
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000_000
