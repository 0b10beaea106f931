"""Where images come from. ``open_source`` lists them; nothing is decoded and nothing unpacked.

A source is a folder of images (a class per sub-folder, or flat), a zip or a tar of one, sharded tars
with webdataset's naming, or Hugging Face parquet files.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from discli.data.labels import UNLABELLED, Labels, from_folders, from_mapping, numbered, parse_json_labels, read_labels
from discli.data.listing import Entry, Listing, list_folder, list_parquet, list_tars, list_zip
from discli.data.readers import Locator, Reader
from discli.runtime.errors import DiscliError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SHARD_NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?$")


@dataclass(frozen=True)
class Source:
    """Images in a fixed order. ``reader`` and single ``locators`` are what travels to worker processes."""

    path: Path
    kind: str  # folder, zip, tar, webdataset or parquet
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


def open_source(path: Path, labels: Path | str | None = None) -> Source:
    """Lists the images at ``path``: a folder, an archive, or a pattern ({000..146}, *) of shards.

    ``labels`` is a csv or json file (see ``read_labels``), or "none" to ignore classes. Without it they
    come from the archive itself (webdataset, parquet, EDM's dataset.json) or from the sub-folders;
    folders are numbered in sorted order, as everyone numbers ImageNet's. Names that lead outside the
    source and all but the last of duplicates are left out and said so.

    Raises DiscliError when there is nothing there, or no telling what the classes are.
    """
    listing = _list(path)
    if not listing.in_order:
        listing.entries.sort(key=lambda entry: entry.name.replace("/", "\0"))  # as tuples of folders compare
    entries, left_out = _listable(listing.entries)
    if not entries:
        raise DiscliError(
            f"{path} holds no images.",
            "Give a folder of .jpg, .png, ... files, in class folders or flat, a zip or tar of one, or parquet files.",
        )
    names = [entry.name for entry in entries]
    assigned, class_names = _labels(listing, entries, str(path), labels)
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
        reader=listing.reader,
        locators=[entry.locator for entry in entries],
    )


def _list(path: Path) -> Listing:
    if path.is_dir():
        listing = list_folder(path)
        return listing if listing.entries else _list_files(sorted(path.rglob("*")), path) or listing
    files = [path] if path.exists() else _expand(path)
    if not files:
        raise DiscliError(f"{path} does not exist.", "Give an image folder, a zip, a tar or parquet files.")
    held = _list_files(files, path)
    if held is None:
        raise DiscliError(f"{path} is no archive of images.", "Give a folder, a .zip, a .tar or .parquet files.")
    return held


def _list_files(paths: list[Path], where: Path) -> Listing | None:
    zips = [path for path in paths if path.suffix.lower() == ".zip"]
    tars = [path for path in paths if ".tar" in path.suffixes[-2:] or path.suffix == ".tgz"]
    parquets = [path for path in paths if path.suffix == ".parquet"]
    if len(zips) > 1:
        raise DiscliError(f"{where} holds {len(zips)} zips.", f"Encode one of them, say {zips[0]}, or unpack them.")
    if parquets:
        return list_parquet(_one_split(parquets, where))
    if tars:
        return list_tars(_one_split(tars, where))
    return list_zip(zips[0]) if zips else None


def _one_split(paths: list[Path], where: Path) -> list[Path]:
    """Shards of train and test often share a folder; a run over both would leak one into the other."""
    splits = sorted({_SHARD_NUMBER.sub("", path.stem) for path in paths if _SHARD_NUMBER.search(path.stem)})
    if len(splits) > 1 and "train" in splits:
        first = next(path for path in paths if path.stem.startswith("train"))
        raise DiscliError(
            f"{where} holds the splits {', '.join(splits)}.",
            f"Name one of them: '{first.parent}/train*{first.suffix}' (quoted).",
        )
    return paths


def _expand(pattern: Path) -> list[Path]:
    """Shell-like * and webdataset's {000000..000146}; in sorted order."""
    text = str(pattern)
    ranges = [(first, last) for first, last in _BRACES.findall(text)]
    numbers = [[str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)] for first, last in ranges]
    found: list[Path] = []
    for choice in product(*numbers):
        values = iter(choice)
        one = Path(_BRACES.sub(lambda _, values=values: next(values), text))  # type: ignore[misc]
        matches = sorted(one.parent.glob(one.name)) if "*" in one.name or "?" in one.name else [one]
        missing = [match for match in matches if not match.is_file()]
        if missing and ranges:
            raise DiscliError(
                f"{missing[0]} does not exist, but {pattern} names it.", "Fetch it, or shorten the range."
            )
        found += [match for match in matches if match.is_file()]
    return found


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


def _labels(listing: Listing, entries: list[Entry], where: str, labels: Path | str | None) -> Labels:
    names = [entry.name for entry in entries]
    if labels is not None and str(labels) == "none":
        return UNLABELLED
    if labels is not None:
        mapping, class_names = read_labels(Path(labels))
        return from_mapping(names, mapping, str(labels), class_names)
    if listing.dataset_json is not None:
        mapping, class_names = parse_json_labels(listing.dataset_json, f"{where}/dataset.json")
        return from_mapping(names, mapping, f"{where}/dataset.json", class_names) if mapping else UNLABELLED
    if listing.kind == "parquet" and entries[0].label is None:
        return UNLABELLED
    if any(entry.label is not None for entry in entries):
        missing = [entry.name for entry in entries if entry.label is None]
        if missing:
            raise DiscliError(
                f"{where}: {len(missing):,} images have no label: {missing[0]}, ...", "Give --labels FILE."
            )
        return numbered([entry.label for entry in entries], where, listing.class_names)
    if listing.kind == "webdataset":  # the outermost folder of a name is its shard
        return from_folders([name.split("/", 1)[-1] for name in names], where)
    return from_folders(names, where)
