"""Python, discli and every package it requires: importable, new enough, and made for each other."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from discli import __file__, __version__
from discli.doctor.finding import Check, CheckContext, Finding, error, ok, warning
from discli.doctor.imports import REQUIRED, Imported

TITLE = "Installation"

_FIRST = ("torch", "torchvision")  # in rows of their own: most that goes wrong goes wrong here


def python(context: CheckContext) -> Iterator[Finding]:
    found = f"{platform.python_version()} ({sys.executable})"
    try:
        wanted = SpecifierSet(metadata.metadata("discli")["Requires-Python"])
    except metadata.PackageNotFoundError:
        wanted = SpecifierSet()
    if wanted.contains(platform.python_version(), prereleases=True):
        yield ok("Python", found)
    else:
        yield error("Python", f"{found}: discli needs {wanted}", f"Install Python {wanted}.")


def discli(context: CheckContext) -> Iterator[Finding]:
    yield ok("discli", f"{__version__} ({Path(__file__).parent})", version=__version__)


def packages(context: CheckContext) -> Iterator[Finding]:
    wanted = required_versions()
    good: dict[str, str] = {}
    for name, module in REQUIRED.items():
        imported, versions = context.imports[module], wanted.get(name, SpecifierSet())
        version = _version(name, imported)
        if trouble := _trouble(name, imported, version, versions):
            yield trouble
        elif name in _FIRST:
            yield ok(name, version, version=version, wanted=str(versions), importable=True)
        else:
            good[name] = version
    yield ok("packages", ", ".join(f"{name} {version}" for name, version in good.items()), versions=good)
    if not wanted:
        yield warning("versions", "not checked: discli runs from its sources and is not installed", "pip install -e .")


def pairing(context: CheckContext) -> Iterator[Finding]:
    """torchvision requires the one release of torch that it was compiled for."""
    try:
        requirements, torch = metadata.requires("torchvision") or [], metadata.version("torch")
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, requirements):
        if requirement.name == "torch" and not requirement.specifier.contains(torch, prereleases=True):
            yield warning(
                "pairing",
                f"torchvision {metadata.version('torchvision')} is built for torch{requirement.specifier}, not {torch}",
                "pip install --force-reinstall torch torchvision, both from the same index.",
            )


CHECKS: dict[str, Check] = {"Python": python, "discli": discli, "packages": packages, "pairing": pairing}


def required_versions() -> dict[str, SpecifierSet]:
    """The versions that discli takes of each package it requires; nothing where it is not installed."""
    try:
        requirements = map(Requirement, metadata.requires("discli") or [])
    except metadata.PackageNotFoundError:
        return {}
    return {one.name.replace("_", "-"): one.specifier for one in requirements if one.marker is None}


def _version(name: str, imported: Imported) -> str:
    package = REQUIRED[name].partition(".")[0]
    if imported.version and package.replace("_", "-") == name:  # of the code that runs, whatever stands beside it
        return imported.version
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _trouble(name: str, imported: Imported, version: str, wanted: SpecifierSet) -> Finding | None:
    importable = not (imported.missing or imported.error)
    install = f'pip install --upgrade "{name}{wanted}"'
    if imported.missing:
        return error(name, "not installed", install, version=version, importable=False)
    if imported.error:
        fix = imported.fix or f"Reinstall it: pip install --force-reinstall --no-deps {name}"
        return error(name, f"{version}: {imported.error}".removeprefix(": "), fix, version=version, importable=False)
    if version and not wanted.contains(version, prereleases=True):
        return error(name, f"{version}, but discli needs {wanted}", install, version=version, importable=importable)
    return None
