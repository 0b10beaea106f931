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
from discli.doctor.finding import Check, CheckContext, Finding, error, ok, warning
from discli.evaluation.reference import cache_folder
from discli.runtime.console import format_bytes
from discli.runtime.devices import processor_name

TITLE = "Machine"

# One checkpoint of DiS-S/2: 29.1 M weights, their average and Adam's two moments, 4 bytes each.
_CHECKPOINT = 4 * 4 * 29_100_000
_COMFORT = 20 * _CHECKPOINT  # a run keeps several, beside samples and data
_LITTLE_MEMORY = 4 * 10**9  # torch with Inception's network and a batch of images takes about half of it
_SHARED = 1 << 26  # what containers are given unless one asks for more


def processor(context: CheckContext) -> Iterator[Finding]:
    cores, threads, quota, load = usable_cores(), torch.get_num_threads(), _cpu_quota(), os.getloadavg()[0]
    limit = f", {quota:g} of them by the container's quota" if quota is not None and quota < cores else ""
    vectors = torch.backends.cpu.get_cpu_capability()
    found = (
        f"{processor_name()}, {vectors}; {cores} of {os.cpu_count()} cores usable{limit}; torch uses {threads} threads;"
        f" load {load:.1f}"
    )
    room = max(1, round(min(cores, quota) if quota is not None else cores))
    details = {"cores": cores, "quota": quota, "threads": threads, "load": load}
    if threads > room:
        fix = f"Set OMP_NUM_THREADS={room}: more threads than cores wait for each other."
        yield warning("processor", found, fix, **details)
    else:
        yield ok("processor", found, **details)


def memory(context: CheckContext) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _search("/sys/fs/cgroup/memory.max", r"^(\d+)$")
    available = _search("/proc/meminfo", r"^MemAvailable:\s*(\d+) kB$")
    known = {"in all": total}
    known |= {"for this container": int(limit)} if limit else {}
    known |= {"available": int(available) * 1024} if available else {}
    found = ", ".join(f"{format_bytes(size)} {what}" for what, size in known.items())
    if min(known.values()) < _LITTLE_MEMORY:
        fix = "Close other programs, or use smaller batches: --batch-size, train.batch_size."
        yield warning("memory", found, fix, **known)
    else:
        yield ok("memory", found, **known)


def disks(context: CheckContext) -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _disk("current folder", Path.cwd(), needed=True)
    for name, folder in (
        ("temporary files", tempfile.gettempdir()),
        ("discli's cache", str(cache_folder())),
        ("torch hub", torch.hub.get_dir()),
        ("Hugging Face", HF_HUB_CACHE),
    ):
        yield _disk(name, Path(folder))


def shared_memory(context: CheckContext) -> Iterator[Finding]:
    """encode's workers need semaphores in it, and NCCL between GPUs some room."""
    name, folder = "shared memory", Path("/dev/shm")
    try:
        multiprocessing.get_context("spawn").Semaphore()
    except (OSError, ImportError) as raised:
        fix = "Make /dev/shm writable (docker run --shm-size 1g), or encode with --workers 0."
        yield error(name, f"no semaphores: {raised}", fix)
        return
    size = shutil.disk_usage(folder).total if folder.is_dir() else 0
    found = f"{folder}: {format_bytes(size)}, semaphores work"
    if size <= _SHARED and torch.cuda.device_count() > 1:
        yield warning(
            name, found, "docker run --shm-size 1g, or --ipc host: GPUs exchange gradients in it.", bytes=size
        )
    else:
        yield ok(name, found, bytes=size)


CHECKS: dict[str, Check] = {
    "processor": processor, "memory": memory, "disks": disks, "shared memory": shared_memory
}  # fmt: skip


def _disk(name: str, folder: Path, needed: bool = False) -> Finding:
    """Of the folder, or of the nearest one above it that is there already."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
    found = f"{folder}: {format_bytes(free)} free"
    if not writable:
        fix = "Go to a folder of your own, or give --out." if needed else "Make it writable."
        return warning(name, f"{found}, and not writable", fix, free=free, writable=False)
    if free < _CHECKPOINT and needed:
        return error(name, found, f"Free some: a checkpoint of DiS-S/2 takes {format_bytes(_CHECKPOINT)}.", free=free)
    if free < (_COMFORT if needed else _CHECKPOINT):
        return warning(name, found, "Free some before long runs.", free=free)
    return ok(name, found, free=free)


def _search(file: str, pattern: str) -> str | None:
    """The group of the first match in a file of /proc or /sys; None where there is no such file or line."""
    try:
        match = re.search(pattern, Path(file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return match[1].strip() if match else None


def _cpu_quota() -> float | None:
    """Cores that a container may use, of cgroup version 2; None where nothing limits it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
