"""Which kind of source a path is, and the images it lists."""

import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from discli.data.labels import UNLABELLED, Labels, from_mapping, read_labels
from discli.data.sources._common import Entry, ImageSource, Locator, Reader
from discli.recipe.data_files import expand
from discli.runtime.errors import DiscliError


@dataclass(frozen=True)
class Source:
    """Images in a fixed order. ``reader`` and single ``locators`` are what travels to worker processes."""

    path: Path
    kind: str  # folder, zip, ...
    names: list[str]  # unique
    labels: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...]  # empty: unlabelled
    sha256: str  # of names, sizes and labels, in this order
    left_out: tuple[tuple[str, str], ...]  # (name, why) of what was found but cannot be listed
    reader: Reader
    locators: list[Locator]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The undecoded file. Raises discli.data.images.ImageError."""
        return self.reader.read(self.locators[index])


def open_source(path: str | Path, labels: Path | str | None = None) -> Source:
    """Lists the images at ``path``: a folder, an archive, or a pattern ({000..146}, *) of shards.

    ``labels`` is a csv or json file (see ``read_labels``), or "none" to ignore classes. Without it they
    come from the archive itself (webdataset, parquet, EDM's dataset.json) or from the sub-folders;
    folders are numbered in sorted order, as everyone numbers ImageNet's. Names that lead outside the
    source and all but the last of duplicates are left out and said so.

    Raises DiscliError when there is nothing there, or no telling what the classes are.
    """
    path = Path(path)
    listing, reader = _list(path)
    if not listing.in_order:
        listing.entries.sort(key=lambda entry: entry.name.replace("/", "\0"))  # as tuples of folders compare
    entries, left_out = _listable(listing.entries)
    listing.entries = entries
    if not entries:
        raise DiscliError(
            f"{path} holds no images.",
            "Give a folder of .jpg, .png, ... files, in class folders or flat, a zip or tar of one, or parquet files.",
        )
    names = [entry.name for entry in entries]
    assigned, class_names = _labels(listing, labels)
    digest = hashlib.sha256()
    for entry, label in zip(entries, [""] * len(entries) if assigned is None else assigned.tolist(), strict=True):
        digest.update(f"{entry.name}\0{entry.size}\0{label}\n".encode())
    return Source(
        path=path,
        kind=listing.kind,
        names=names,
        labels=assigned,
        class_names=class_names,
        sha256=digest.hexdigest(),
        left_out=(*listing.left_out, *left_out),
        reader=reader,
        locators=[entry.locator for entry in entries],
    )


@cache
def _kinds() -> list[type[ImageSource]]:
    """Those of this folder's files, in the order they are asked: ``asked``, then the file's name."""
    kinds: list[type[ImageSource]] = []
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = importlib.import_module(f"{__package__}.{file.stem}")
        found = [
            one
            for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, ImageSource) and one.__module__ == module.__name__
        ]
        if not found:
            raise DiscliError(f"{file} holds no ImageSource.", "Write one, or give the file's name a leading _.")
        kinds += found
    return sorted(kinds, key=lambda kind: kind.asked)


def _list(path: Path) -> tuple[ImageSource, Reader]:
    paths = [path] if path.exists() else expand(path)
    if not paths:
        raise DiscliError(f"{path} does not exist.", "Give an image folder, a zip, a tar or parquet files.")
    listed = _list_all(paths, path)
    if path.is_dir() and listed and not listed[0].entries:  # no images, but perhaps archives of them
        listed = _list_all([inside for inside in sorted(path.rglob("*")) if not inside.is_dir()], path) or listed
    if listed is None:
        raise DiscliError(f"{path} is no archive of images.", "Give a folder, a .zip, a .tar or .parquet files.")
    return listed


def _list_all(paths: Sequence[Path], where: Path) -> tuple[ImageSource, Reader] | None:
    """By the first kind that knows any of ``paths``, all that it knows."""
    for kind in _kinds():
        if known := [path for path in paths if kind.matches(path)]:
            listing = kind(known, where)
            return listing, listing.list_images()
    return None


def _listable(entries: list[Entry]) -> tuple[list[Entry], list[tuple[str, str]]]:
    kept: dict[str, Entry] = {}
    left_out = []
    for entry in entries:
        if _leads_outside(entry.name):
            left_out.append((entry.name, "its path leads outside the source"))
            continue
        if entry.name in kept:
            left_out.append((entry.name, "a later image has the same name"))
        kept[entry.name] = entry  # the last one stays, as unpacking would have it
    return list(kept.values()), left_out


def _leads_outside(name: str) -> bool:
    return name.startswith(("/", "\\")) or (".." in name and ".." in re.split(r"[/\\]", name)) or name[1:2] == ":"


def _labels(listing: ImageSource, labels: str | Path | None) -> Labels:
    if labels is None:
        return listing.labels()
    if str(labels) == "none":
        return UNLABELLED
    mapping, class_names = read_labels(Path(labels))
    return from_mapping([entry.name for entry in listing.entries], mapping, str(labels), class_names)
