"""Disks, and threads beyond the cores."""

import os
import shutil
from pathlib import Path

import torch

from discli.doctor import machine
from discli.doctor.finding import CheckContext


def _with_free(monkeypatch, free: int) -> dict[str, str]:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    return {finding.name: finding.verdict for finding in machine.disks(CheckContext())}


def test_a_full_disk_is_an_error_where_runs_are_written_and_a_warning_elsewhere(monkeypatch):
    verdicts = _with_free(monkeypatch, 10**8)
    assert verdicts.pop("current folder") == "error"
    assert set(verdicts.values()) == {"warning"}


def test_a_roomy_one_is_fine(monkeypatch):
    assert set(_with_free(monkeypatch, 10**12).values()) == {"ok"}


def test_a_folder_that_is_not_there_yet_is_on_its_parents_disk(tmp_path):
    finding = machine._disk("cache", tmp_path / "not" / "yet")
    assert str(tmp_path / "not" / "yet") in finding.found
    assert abs(finding.details["free"] - shutil.disk_usage(tmp_path).free) < 10**9


def test_more_threads_than_a_containers_quota_are_noted(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)
    monkeypatch.setattr(machine, "_cpu_quota", lambda: 4.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    (finding,) = machine.processor(CheckContext())
    assert finding.verdict == "warning"
    assert "64 of" in finding.found
    assert "4 of them" in finding.found
    assert "OMP_NUM_THREADS=4" in finding.fix


def test_this_machine_has_memory_semaphores_and_as_many_cores_as_it_says():
    (memory,), (processor,) = machine.memory(CheckContext()), machine.processor(CheckContext())
    assert memory.details["in all"] > 10**8
    assert 1 <= processor.details["cores"] <= (os.cpu_count() or 1)
    (shared,) = machine.shared_memory(CheckContext())
    assert shared.verdict != "error" or not os.access(Path("/dev/shm"), os.W_OK)
