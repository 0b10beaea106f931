"""What a folder, zip, tar or set of parquet files holds, before anything is decoded."""

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discli.data.readers import FolderReader, Locator, ParquetReader, Reader, TarReader, ZipReader, pyarrow_parquet
from discli.runtime.errors import DiscliError
from discli.runtime.files import parse_json

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm", "jp2", "avif", "tga"}
    | {"heic", "heif", "jxl"}  # which Pillow does not read: they are to be missed aloud, not passed over
)
DATASET_JSON = "dataset.json"  # EDM's and StyleGAN's labels, beside the images

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
_HIDDEN = re.compile(r"(^|/)(\.[^./]|__MACOSX/)")
_SMALL = 1 << 20  # bytes; no sample's metadata is longer
_NUMBERED = re.compile(r"(^|[-_.])\d+$")  # train-000123, 00042: a shard's name, not a class's


@dataclass(slots=True)
class Entry:
    name: str
    size: int
    locator: Locator
    label: Any = None  # from a webdataset .cls member or a parquet column


@dataclass
class Listing:
    kind: str
    reader: Reader
    entries: list[Entry] = field(default_factory=list)
    class_names: Sequence[str] = ()
    in_order: bool = False  # webdataset and parquet keep their own order; everything else is sorted
    dataset_json: bytes | None = None  # as it lies there: with --labels nobody reads it
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (name, why)


def is_image(name: str) -> bool:
    """By suffix; what Finder and its like leave behind (``._x.jpg``, ``__MACOSX``, hidden files) is none."""
    _, dot, suffix = name.rpartition(".")
    return bool(dot) and suffix.lower() in IMAGE_SUFFIXES and not _HIDDEN.search(name)


def list_folder(root: Path) -> Listing:
    """Every image below ``root``; links are followed, each folder once."""
    listing = Listing("folder", FolderReader(str(root)))
    seen: set[tuple[int, int]] = set()

    def walk(folder: str, prefix: str) -> None:
        try:
            status = os.stat(folder)  # noqa: PTH116 - a Path for each of a million files takes longer than listing them
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as children:
                for child in children:
                    name = prefix + child.name
                    if child.is_dir():
                        walk(child.path, name + "/")
                    elif is_image(name) and child.is_file():
                        listing.entries.append(Entry(_printable(name), child.stat().st_size, (name,)))
        except OSError as error:
            raise DiscliError(
                f"Cannot read {error.filename}: {error.strerror}.", "Check the path and its permissions."
            ) from None

    walk(str(root), "")
    if (root / DATASET_JSON).is_file():
        listing.dataset_json = (root / DATASET_JSON).read_bytes()
    return listing


def list_zip(path: Path) -> Listing:
    """Every image in a zip, by its central directory."""
    listing = Listing("zip", ZipReader(str(path)))
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir() or not is_image(info.filename):
                    continue
                # An encrypted member has no method that any reader here knows.
                method = info.compress_type if not info.flag_bits & 1 else -1
                stored_name = len(info.orig_filename.encode("utf-8"))
                locator = (info.header_offset, info.compress_size, info.file_size, method, info.CRC, stored_name)
                listing.entries.append(Entry(_printable(info.filename), info.file_size, locator))
            if DATASET_JSON in archive.namelist():
                listing.dataset_json = archive.read(DATASET_JSON)
    except zipfile.BadZipFile:
        raise DiscliError(
            f"{path} is no zip file, or only part of one.", "Fetch it again and compare its size with the original's."
        ) from None
    except (RuntimeError, zlib.error, EOFError) as error:  # encrypted, an unknown compression, damaged
        raise DiscliError(
            f"{path}: cannot read {DATASET_JSON}: {error}.", "Repair it, or give --labels FILE."
        ) from None
    return listing


def list_tars(paths: list[Path]) -> Listing:
    """Every image in one tar or many, and in tars inside them (as ImageNet comes).

    Labels come from webdataset's ``KEY.cls`` (or a "label" in ``KEY.json``) where there are any; names
    begin with the tar's own when there are several.
    """
    listing = Listing("tar", TarReader([str(path) for path in paths]))
    for which, path in enumerate(paths):
        prefix = f"{path.stem}/" if len(paths) > 1 else ""
        try:
            with path.open("rb") as file:
                if not _list_tar(listing, file, which, prefix, 0):
                    listing.left_out.append((path.name, "no end mark: images may be missing, compare its size"))
        except tarfile.ReadError as error:
            raise DiscliError(f"{path} cannot be read as a plain tar: {error}.", _tar_hint(path)) from None
    numbered = len(paths) > 1 and all(_NUMBERED.search(path.stem) for path in paths)
    if numbered or any(entry.label is not None for entry in listing.entries):
        listing.kind, listing.in_order = "webdataset", True
    return listing


def _list_tar(listing: Listing, file: Any, which: int, prefix: str, base: int) -> bool:
    """Whether the tar ends with the zeros that end a tar; one cut between two members has none."""
    labels: dict[str, Any] = {}
    first = len(listing.entries)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep a million headers
            if not member.isreg() or member.issparse():
                continue
            name = prefix + member.name.removeprefix("./")
            inside = archive.extractfile(member)
            assert inside is not None
            if is_image(name):
                listing.entries.append(
                    Entry(_printable(name), member.size, (which, base + member.offset_data, member.size))
                )
            elif name.endswith(".tar"):
                _list_tar(listing, inside, which, name.removesuffix(".tar") + "/", base + member.offset_data)
            elif name == DATASET_JSON:
                listing.dataset_json = inside.read()
            elif name.endswith(".cls") and member.size < _SMALL:
                labels[_webdataset_key(name)] = inside.read().decode("utf-8", "replace").strip()
            elif name.endswith(".json") and member.size < _SMALL:
                labels.setdefault(_webdataset_key(name), _json_label(inside.read()))
        file.seek(archive.offset)
        whole = bool(file.read(tarfile.BLOCKSIZE))
    for entry in listing.entries[first:]:
        entry.label = labels.get(_webdataset_key(entry.name), entry.label)
    return whole


def list_parquet(paths: list[Path]) -> Listing:
    """Rows of Hugging Face parquet files: an image column {bytes, path} and, if there is one, a label column.

    Labels are named from the class list that the datasets library leaves in the schema.
    """
    parquet = pyarrow_parquet()
    listing = Listing("parquet", ParquetReader([], ""), in_order=True)
    label: str | None = None
    for which, path in enumerate(paths):
        try:
            file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow's own errors; which ones depends on where the file is damaged
            raise DiscliError(f"{path} is no parquet file: {error}.", "Fetch it again.") from None
        size = path.stat().st_size
        with file:
            if which == 0:
                features = _features(file.schema_arrow)
                label = _label_column(file.schema_arrow, features)
                listing.class_names = features.get(label or "", {}).get("names", ())
                listing.reader = ParquetReader([str(path) for path in paths], _image_column(file.schema_arrow, path))
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                labels = file.read_row_group(group, columns=[label])[label].to_pylist() if label else [None] * rows
                for row in range(rows):
                    name = f"{path.stem}/{group:04d}/{row:06d}"
                    listing.entries.append(Entry(name, size, (which, group, row), labels[row]))
    return listing


def _features(schema: Any) -> dict[str, Any]:
    try:
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: of for name, of in features.items() if isinstance(of, dict)} if isinstance(features, dict) else {}


def _image_column(schema: Any, path: Path) -> str:
    for column in schema:
        kind = str(column.type)
        if (kind.startswith("struct") and "bytes: " in kind) or (kind.endswith("binary") and "image" in column.name):
            return str(column.name)
    raise DiscliError(
        f"{path} has no image column, only {', '.join(schema.names)}.",
        "An image column is a struct of bytes and path, as the datasets library writes it.",
    )


def _label_column(schema: Any, features: dict[str, Any]) -> str | None:
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    known = [name for name in ("label", "labels", "class", "fine_label") if name in schema.names]
    return next(iter(classes + known), None)


def _webdataset_key(name: str) -> str:
    """The name up to its first dot, folders included; members of a sample share it."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _json_label(data: bytes) -> Any:
    try:
        content = parse_json(data)
    except ValueError:
        return None
    return content.get("label") if isinstance(content, dict) else None


def _printable(name: str) -> str:
    """File names need be neither UTF-8 nor a single line; names in the data file are."""
    if name.isprintable():
        return name
    return name.encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)


def _tar_hint(path: Path) -> str:
    tools: dict[str, str] = {".gz": "gunzip -k", ".tgz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k"}
    tool = tools.get(path.suffix)
    if tool:
        return f"A compressed tar has to be read from its start for each image: decompress it once, {tool} {path}."
    return "Fetch it again and compare its size with the original's."
