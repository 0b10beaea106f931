"""CUDA C++ without a compiler on the machine: NVRTC, which comes in PyTorch's own wheels, called by ctypes.

What it makes is kept in the user's cache under the hash of all that went into it: source, options and version.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from discli.runtime.errors import DiscliError
from discli.runtime.files import write_beside


@cache
def library() -> Path | None:
    """PyTorch's libnvrtc, or None where it has none: in builds for a CPU."""
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages.submodule_search_locations or []) if packages else []:
        found = [path for path in Path(folder).glob("*/lib/libnvrtc.so.*") if ".alt." not in path.name]
        if found:
            return max(found, key=lambda path: int(path.suffix[1:]))
    return None


def compile_cubin(source: Path, headers: Sequence[Path], arch: int, defines: dict[str, int]) -> bytes:
    """Machine code for a compute capability (90: H100), from the cache or compiled in under a second.

    Raises DiscliError with the compiler's words where it refuses the source.
    """
    names = [header.name for header in headers]
    texts = [header.read_text(encoding="utf-8") for header in headers]
    options = [f"--gpu-architecture=sm_{arch}", "--std=c++17", *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    nvrtc, version = _load()
    everything = "\0".join([version, *options, source.read_text(encoding="utf-8"), *names, *texts])
    kept = cache_folder() / f"{source.stem}-sm{arch}-{hashlib.sha256(everything.encode()).hexdigest()[:24]}.cubin"
    if kept.exists():
        return kept.read_bytes()
    cubin = _compile(nvrtc, source, names, texts, options)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_beside(kept, lambda path: path.write_bytes(cubin))
    except OSError:
        pass  # a home that cannot be written: it is compiled once a process then
    return cubin


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "discli" / "cubins"


@cache
def _load() -> tuple[Any, str]:
    path = library()
    if path is None:
        raise DiscliError("This PyTorch brings no NVRTC.", "Install a CUDA build of torch, or use scan = 'triton'.")
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        if ".alt." not in builtins.name:  # NVRTC looks for it by name alone, where it is not
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(path))
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return nvrtc, f"{major.value}.{minor.value}"


def _compile(nvrtc: Any, source: Path, names: Sequence[str], texts: Sequence[str], options: Sequence[str]) -> bytes:
    def strings(values: Sequence[str]) -> Any:
        return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))

    program = ctypes.c_void_p()
    text = source.read_text(encoding="utf-8").encode()
    made = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text, source.name.encode(), len(names), strings(texts), strings(names)
    )
    if made:
        raise DiscliError(f"NVRTC takes no program (error {made}).", "Use scan = 'triton'.")
    try:
        refused = nvrtc.nvrtcCompileProgram(program, len(options), strings(options))
        size = ctypes.c_size_t()
        if refused:
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            said = re.sub(r"\s+", " ", log.value.decode(errors="replace"))[:500]
            raise DiscliError(f"NVRTC does not compile {source.name}: {said}.", "Use scan = 'triton'.")
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, cubin)
        return cubin.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
