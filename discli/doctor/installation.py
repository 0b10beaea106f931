"""Python, discli and every package it requires: importable, new enough, and made for each other."""

import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from discli import __version__
from discli.doctor.finding import Checks, Finding, Setting
from discli.doctor.imports import REQUIRED, Imported

TITLE = "Installation"

_FIRST = ("torch", "torchvision")  # in rows of their own: most that goes wrong goes wrong here


def python(setting: Setting) -> Iterator[Finding]:
    found = f"{platform.python_version()} ({sys.executable})"
    try:
        minimum = metadata.metadata("discli")["Requires-Python"].removeprefix(">=")
    except metadata.PackageNotFoundError:
        yield Finding("Python", "ok", found)
        return
    if at_least(platform.python_version(), minimum):
        yield Finding("Python", "ok", found)
    else:
        yield Finding("Python", "problem", f"{found}: older than {minimum}", f"Install Python {minimum} or newer.")


def discli(setting: Setting) -> Iterator[Finding]:
    spec = importlib.util.find_spec("discli")
    where = (spec.submodule_search_locations or ["?"])[0] if spec else "?"
    yield Finding("discli", "ok", f"{__version__} ({where})", details={"version": __version__})


def packages(setting: Setting) -> Iterator[Finding]:
    minimums = required_versions()
    good: dict[str, str] = {}
    for name, module in REQUIRED.items():
        imported, minimum = setting.imports[module], minimums.get(name, "")
        version = _version(name, imported)
        if trouble := _trouble(name, imported, version, minimum):
            yield trouble
        elif name in _FIRST:
            yield Finding(name, "ok", version, details={"version": version, "minimum": minimum, "importable": True})
        else:
            good[name] = version
    listed = ", ".join(f"{name} {version}" for name, version in good.items())
    yield Finding("packages", "ok", listed, details={"versions": good, "minimums": minimums})
    if not minimums:
        yield Finding("minimums", "note", "discli runs from its sources, not installed: nothing says which it needs")


def pairing(setting: Setting) -> Iterator[Finding]:
    """The release of torch that torchvision was compiled for, which it names in its own requirements."""
    try:
        requirements, installed = metadata.requires("torchvision") or [], metadata.version("torch")
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        pin = re.match(r"torch\s*\(?==\s*([\w.+]+)", requirement)
        if pin and pin[1].partition("+")[0] != installed.partition("+")[0]:
            yield Finding(
                "pairing",
                "note",
                f"torchvision {metadata.version('torchvision')} was made for torch {pin[1]}, and this is {installed}",
                "pip install --force-reinstall torch torchvision, both from the same index.",
            )


CHECKS: Checks = {"Python": python, "discli": discli, "packages": packages, "pairing": pairing}


def required_versions() -> dict[str, str]:
    """The oldest version that discli takes of each package it requires, "" for any; nothing where not installed."""
    try:
        lines = metadata.requires("discli") or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = [re.match(r"([\w-]+)(?:>=([\w.]+))?", line) for line in lines if "extra ==" not in line]
    return {match[1]: match[2] or "" for match in wanted if match}


def at_least(version: str, minimum: str) -> bool:
    """Whether the release numbers of ``version`` (2.11.0+cu130) are those of ``minimum`` or newer."""

    def numbers(text: str) -> list[int]:
        release = re.match(r"\d+(\.\d+)*", text)
        return [int(part) for part in release[0].split(".")] if release else []

    have, want = numbers(version), numbers(minimum)
    return have + [0] * (len(want) - len(have)) >= want


def _version(name: str, imported: Imported) -> str:
    package = REQUIRED[name].partition(".")[0]
    if imported.version and package.replace("_", "-") == name:  # of the code that runs, whatever stands beside it
        return imported.version
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _trouble(name: str, imported: Imported, version: str, minimum: str) -> Finding | None:
    details = {"version": version, "minimum": minimum, "importable": not (imported.missing or imported.error)}
    newest = f'pip install --upgrade "{name}>={minimum}"' if minimum else f"pip install {name}"
    if imported.missing:
        return Finding(name, "problem", "not installed", newest, details)
    if imported.error:
        remedy = imported.remedy or f"Install it again: pip install --force-reinstall --no-deps {name}"
        return Finding(name, "problem", f"{version}: {imported.error}".removeprefix(": "), remedy, details)
    if minimum and not at_least(version, minimum):
        return Finding(name, "problem", f"{version} is older than {minimum}", newest, details)
    return None
