"""Disks, and threads beyond the cores."""

import os
import shutil
from pathlib import Path

import torch

from discli.doctor import machine
from discli.doctor.finding import Setting


def _with_free(monkeypatch, free: int) -> dict[str, str]:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    return {finding.name: finding.verdict for finding in machine.disks(Setting())}


def test_a_full_disk_is_a_problem_where_runs_are_written_and_a_note_elsewhere(monkeypatch):
    verdicts = _with_free(monkeypatch, 10**8)
    assert verdicts.pop("current folder") == "problem"
    assert set(verdicts.values()) == {"note"}


def test_a_roomy_one_is_fine(monkeypatch):
    assert set(_with_free(monkeypatch, 10**12).values()) == {"ok"}


def test_a_folder_that_is_not_there_yet_is_on_its_parents_disk(tmp_path):
    finding = machine._disk("cache", tmp_path / "not" / "yet")
    assert finding.details["folder"] == str(tmp_path / "not" / "yet")
    assert abs(finding.details["free"] - shutil.disk_usage(tmp_path).free) < 10**9


def test_more_threads_than_a_containers_quota_are_noted(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)
    monkeypatch.setattr(machine, "_cpu_quota", lambda: 4.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    (finding,) = machine.processor(Setting())
    assert finding.verdict == "note"
    assert "64 of" in finding.found
    assert "4 of them" in finding.found
    assert "OMP_NUM_THREADS=4" in finding.remedy


def test_a_busy_machine_is_noted_for_its_speeds_are_not_its_own(monkeypatch):
    for load, verdict in ((1.0, "ok"), (9.0, "note")):
        monkeypatch.setattr(machine, "usable_cores", lambda: 4)
        monkeypatch.setattr(machine, "_cpu_quota", lambda: None)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        (finding,) = machine.processor(Setting())
        assert (finding.verdict, f"load {load}" in finding.found) == (verdict, True)


def test_this_machine_has_memory_semaphores_and_as_many_cores_as_it_says():
    (memory,), (processor,) = machine.memory(Setting()), machine.processor(Setting())
    assert memory.details["total"] > 10**8
    assert 1 <= processor.details["cores"] <= (os.cpu_count() or 1)
    (shared,) = machine.shared_memory(Setting())
    assert shared.verdict != "problem" or not os.access(Path("/dev/shm"), os.W_OK)
