"""Processor, memory and disks."""

import multiprocessing
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from discli.data.decoding import usable_cores
from discli.doctor.finding import Checks, Finding, Setting
from discli.evaluation.reference import cache_folder
from discli.runtime.console import format_bytes
from discli.runtime.devices import processor_name

TITLE = "Machine"

# One checkpoint of DiS-S/2: 29.1 M weights, their average and Adam's two moments, 4 bytes each.
_CHECKPOINT = 4 * 4 * 29_100_000
_COMFORT = 20 * _CHECKPOINT  # a run keeps several, beside samples and data
_LITTLE_MEMORY = 4 * 10**9  # torch with Inception's network and a batch of images takes about half of it
_SHARED = 1 << 26  # what containers are given unless one asks for more


def processor(setting: Setting) -> Iterator[Finding]:
    cores, threads = usable_cores(), torch.get_num_threads()
    quota = _cpu_quota()
    limit = f", {quota:g} of them by the container's quota" if quota is not None and quota < cores else ""
    vectors = torch.backends.cpu.get_cpu_capability()
    found = (
        f"{processor_name()}, {vectors}; {cores} of {os.cpu_count()} cores usable{limit}; torch uses {threads} threads"
    )
    load = os.getloadavg()[0]  # of the last minute: our own, and that of others
    found += f"; load {load:.1f}"
    details = {"cores": cores, "quota": quota, "threads": threads, "vectors": vectors, "load": load}
    room = min(cores, quota) if quota is not None else cores
    if threads > max(1, round(room)):
        remedy = f"Set OMP_NUM_THREADS={max(1, round(room))}: more threads than cores wait for each other."
        yield Finding("processor", "note", found, remedy, details)
    elif load > 2 * cores:
        remedy = "Run discli doctor again when it is less busy: the speeds above are lower than this machine's."
        yield Finding("processor", "note", found, remedy, details)
    else:
        yield Finding("processor", "ok", found, details=details)


def memory(setting: Setting) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    available = _available_memory()
    words = [format_bytes(total)]
    words += [f"{format_bytes(limit)} for this container"] if limit is not None and limit < total else []
    words += [f"{format_bytes(available)} available"] if available is not None else []
    least = min(value for value in (total, limit, available) if value is not None)
    details = {"total": total, "limit": limit, "available": available}
    if least < _LITTLE_MEMORY:
        remedy = "Close other programs, or take smaller batches: --batch-size, train.batch_size."
        yield Finding("memory", "note", ", ".join(words), remedy, details)
    else:
        yield Finding("memory", "ok", ", ".join(words), details=details)


def disks(setting: Setting) -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _disk("current folder", Path.cwd(), needed=True)
    yield _disk("temporary files", Path(tempfile.gettempdir()))
    yield _disk("discli's cache", cache_folder())
    yield _disk("torch hub", Path(torch.hub.get_dir()))
    yield _disk("Hugging Face", Path(HF_HUB_CACHE))


def shared_memory(setting: Setting) -> Iterator[Finding]:
    """encode's workers need semaphores of it, and NCCL between GPUs some room."""
    folder = Path("/dev/shm")
    try:
        multiprocessing.get_context("spawn").Semaphore()
    except (OSError, ImportError) as error:
        remedy = "Make /dev/shm writable (docker run --shm-size 1g), or encode with --workers 0."
        yield Finding("shared memory", "problem", f"no semaphores: {error}", remedy)
        return
    if not folder.is_dir():
        yield Finding("shared memory", "ok", "semaphores work")
        return
    size = shutil.disk_usage(folder).total
    found, details = f"{folder}: {format_bytes(size)}, semaphores work", {"bytes": size}
    if size <= _SHARED and torch.cuda.device_count() > 1:
        remedy = "docker run --shm-size 1g, or --ipc host: several GPUs exchange gradients through it."
        yield Finding("shared memory", "note", found, remedy, details)
    else:
        yield Finding("shared memory", "ok", found, details=details)


CHECKS: Checks = {"processor": processor, "memory": memory, "disks": disks, "shared memory": shared_memory}


def _disk(name: str, folder: Path, needed: bool = False) -> Finding:
    """Of the folder, or of the nearest one above it that is there already."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
    details = {"folder": str(folder), "free": free, "writable": writable}
    found = f"{folder}: {format_bytes(free)} free"
    if not writable:
        remedy = "Go to a folder of your own, or give --out." if needed else "Make it writable, or name another."
        return Finding(name, "note", f"{found}, and not writable", remedy, details)
    if free < _CHECKPOINT and needed:
        remedy = f"Free some: a checkpoint of DiS-S/2 takes {format_bytes(_CHECKPOINT)}."
        return Finding(name, "problem", found, remedy, details)
    if free < (_COMFORT if needed else _CHECKPOINT):
        return Finding(name, "note", found, "Free some before long runs.", details)
    return Finding(name, "ok", found, details=details)


def _available_memory() -> int | None:
    try:
        said = re.search(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(said[1]) * 1024 if said else None


def _cpu_quota() -> float | None:
    """Cores that a container may use, of cgroup version 2; None where nothing limits it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max"
        return None
