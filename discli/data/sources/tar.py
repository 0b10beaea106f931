"""Tars of images: one, one per class, tars in a tar (as ImageNet comes), or shards with webdataset's naming."""

import re
import tarfile
from pathlib import Path
from typing import Any

from discli.data.labels import Labels, from_folders
from discli.data.sources import (
    DATASET_JSON,
    MAX_BYTES,
    Entry,
    ImageSource,
    Locator,
    OpenFiles,
    Reader,
    checked,
    is_image,
    one_split,
    printable,
)
from discli.runtime.errors import DiscliError
from discli.runtime.files import parse_json

_SMALL = 1 << 20  # bytes; no sample's metadata is longer
_NUMBERED = re.compile(r"(^|[-_.])\d+$")  # train-000123, 00042: a shard's name, not a class's


class TarReader:
    """Locator: (which tar, offset, size) of a member stored uncompressed."""

    def __init__(self, paths: list[str]) -> None:
        self._files = OpenFiles(paths)

    def read(self, locator: Locator) -> bytes:
        which, offset, size = locator
        if size > MAX_BYTES:
            return checked(b"", size)
        return checked(self._files.read_at(which, size, offset), size)


class Tar(ImageSource):
    """Every image in one tar or many, and in tars inside them.

    Labels come from webdataset's ``KEY.cls`` (or a "label" in ``KEY.json``) where there are any; names
    begin with the tar's own when there are several.
    """

    kind = "tar"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return ".tar" in path.suffixes[-2:] or path.suffix == ".tgz"

    def list_images(self) -> Reader:
        one_split(self.paths, self.where)
        for which, path in enumerate(self.paths):
            prefix = f"{path.stem}/" if len(self.paths) > 1 else ""
            try:
                with path.open("rb") as file:
                    if not self._list_tar(file, which, prefix, 0):
                        self.left_out.append((path.name, "no end mark: images may be missing, compare its size"))
            except tarfile.ReadError as error:
                raise DiscliError(f"{path} cannot be read as a plain tar: {error}.", _tar_hint(path)) from None
        numbered = len(self.paths) > 1 and all(_NUMBERED.search(path.stem) for path in self.paths)
        if numbered or any(entry.label is not None for entry in self.entries):
            self.kind, self.in_order = "webdataset", True
        return TarReader([str(path) for path in self.paths])

    def labels_of_folders(self) -> Labels:
        if self.kind != "webdataset":
            return super().labels_of_folders()
        # The outermost folder of a name is its shard.
        return from_folders([entry.name.split("/", 1)[-1] for entry in self.entries], str(self.where))

    def _list_tar(self, file: Any, which: int, prefix: str, base: int) -> bool:
        """Whether the tar ends with the zeros that end a tar; one cut between two members has none."""
        labels: dict[str, Any] = {}
        first = len(self.entries)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep a million headers
                if not member.isreg() or member.issparse():
                    continue
                name = prefix + member.name.removeprefix("./")
                inside = archive.extractfile(member)
                assert inside is not None
                if is_image(name):
                    self.entries.append(
                        Entry(printable(name), member.size, (which, base + member.offset_data, member.size))
                    )
                elif name.endswith(".tar"):
                    self._list_tar(inside, which, name.removesuffix(".tar") + "/", base + member.offset_data)
                elif name == DATASET_JSON:
                    self.dataset_json = inside.read()
                elif name.endswith(".cls") and member.size < _SMALL:
                    labels[_webdataset_key(name)] = inside.read().decode("utf-8", "replace").strip()
                elif name.endswith(".json") and member.size < _SMALL:
                    labels.setdefault(_webdataset_key(name), _json_label(inside.read()))
            file.seek(archive.offset)
            whole = bool(file.read(tarfile.BLOCKSIZE))
        for entry in self.entries[first:]:
            entry.label = labels.get(_webdataset_key(entry.name), entry.label)
        return whole


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


def _tar_hint(path: Path) -> str:
    tools: dict[str, str] = {".gz": "gunzip -k", ".tgz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k"}
    tool = tools.get(path.suffix)
    if tool:
        return f"A compressed tar has to be read from its start for each image: decompress it once, {tool} {path}."
    return "Fetch it again and compare its size with the original's."
