"""Class labels: from sub-folders, from a csv or json file, or from what an archive carries."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from discli.runtime.errors import DiscliError
from discli.runtime.files import parse_json

Labels = tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]

UNLABELLED: Labels = (None, ())
_HEADERS = {"name", "file", "filename", "file_name", "path", "image", "image_id"}
_MOST_CLASSES = 2**20  # each has a name in every file and checkpoint
_SPLITS = {"train", "val", "valid", "validation", "test"}


def from_folders(names: Sequence[str], where: str) -> Labels:
    """A class per sub-folder, in sorted order; a single folder around everything is looked through.

    Returns no labels for a flat folder. Raises DiscliError when some images have a sub-folder and
    some have none, or when the sub-folders are train, val, test.
    """
    depth = _shared_depth(names)
    parts = [name.split("/")[depth:] for name in names]
    folders = {part[0] for part in parts if len(part) > 1}
    if not folders:
        return UNLABELLED
    stray = sum(len(part) == 1 for part in parts)
    if stray:
        raise DiscliError(
            f"{where} holds {stray} images beside {len(folders)} folders of images: which classes are meant?",
            "Move them into class folders, or give --labels FILE (or --labels none).",
        )
    if len(folders) > 1 and folders <= _SPLITS:
        split = sorted(folders)[0]
        raise DiscliError(
            f"{where} holds the splits {', '.join(sorted(folders))}, not classes.",
            f"Name one of them, unpacked: {where.rstrip('/')}/{split} (or take all without classes: --labels none).",
        )
    classes = sorted(folders)
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[part[0]] for part in parts], dtype=np.int64), tuple(classes)


def from_mapping(
    names: Sequence[str], mapping: Mapping[str, Any], where: str, class_names: Sequence[str] = ()
) -> Labels:
    """Labels looked up by name: the whole name, the name below the outermost folder, or the file name alone.

    Whole numbers are class indices as they stand; other labels are sorted and numbered.
    """
    depth = _shared_depth(names)
    found = [_lookup(mapping, name, depth) for name in names]
    missing = [name for name, label in zip(names, found, strict=True) if label is None]
    if missing:
        raise DiscliError(
            f"{where} has no label for {len(missing):,} of {len(names):,} images: {missing[0]}, ...",
            "Add them, one line each, named as they are in the source.",
        )
    return numbered(found, where, class_names)


def numbered(values: Sequence[Any], where: str, class_names: Sequence[str] = ()) -> Labels:
    """(n,) class indices and the classes' names, from one label (int or text) per image."""
    texts = [str(value) for value in values]
    if all(text.isdecimal() for text in texts):
        numbers = [int(text) for text in texts]
        count = max(numbers, default=-1) + 1
        if count > _MOST_CLASSES:
            raise DiscliError(
                f"{where} labels an image {count - 1}: there may be {_MOST_CLASSES:,} classes, counted from 0.",
                "Number them so, or give names that are no numbers.",
            )
        labels = np.array(numbers, dtype=np.int64)
        if class_names and count > len(class_names):
            raise DiscliError(
                f"{where} labels an image {count - 1}, but names only {len(class_names)} classes.",
                f"Classes count from 0 to {len(class_names) - 1}.",
            )
        return labels, tuple(class_names) or tuple(str(i) for i in range(count))
    classes = tuple(class_names) or tuple(sorted(set(texts)))
    index = {name: i for i, name in enumerate(classes)}
    unknown = next((text for text in texts if text not in index), None)
    if unknown is not None:
        raise DiscliError(f'{where} uses the class "{unknown}", which its list of classes lacks.', "Add it there.")
    return np.array([index[text] for text in texts], dtype=np.int64), classes


def read_labels(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A name -> label mapping, and the classes' names when the file lists them.

    csv or tsv: ``name,label`` lines, with or without a header. json: ``{name: label}``, or
    ``{"labels": [[name, label], ...], "classes": [...]}`` (EDM's dataset.json; "classes" is optional).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DiscliError(f"Labels: cannot read {path}: {error.strerror}.", "Check --labels.") from None
    if path.suffix.lower() == ".json":
        return parse_json_labels(content, str(path))
    return _parse_csv(_text(content, str(path)), path)


def parse_json_labels(content: bytes, where: str) -> tuple[dict[str, Any], list[str]]:
    """See ``read_labels``."""
    try:
        tree = parse_json(_text(content, where))
    except json.JSONDecodeError as error:
        raise DiscliError(f"Labels: {where}, line {error.lineno}: {error.msg}.", "Repair the file.") from None
    except ValueError as error:
        raise DiscliError(f"Labels: {where}: {error}.", "Repair the file.") from None
    pairs: Any = tree
    classes: Any = []
    if isinstance(tree, dict) and "labels" in tree:
        pairs, classes = tree["labels"] or [], tree.get("classes") or []
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not (isinstance(pairs, list) and all(map(_is_pair, pairs)) and _is_plain(classes)):
        raise DiscliError(
            f"Labels: {where} is neither {{name: label}} nor a list of [name, label] pairs.",
            'Write {"a.png": "cat"} or {"labels": [["a.png", 0]], "classes": ["cat"]}.',
        )
    return _unique([(str(name), label) for name, label in pairs], where), [str(name) for name in classes]


def _is_pair(pair: Any) -> bool:
    return _is_plain(pair) and len(pair) == 2


def _is_plain(values: Any) -> bool:
    """A list without lists or tables in it."""
    return isinstance(values, list | tuple) and not any(isinstance(value, list | dict) for value in values)


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DiscliError(f"Labels: {where} is no text in UTF-8.", "Save it as UTF-8 text: csv or json.") from None


def _parse_csv(text: str, path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        rows = list(csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except csv.Error as error:
        raise DiscliError(f"Labels: {path}: {error}.", "Look for a quotation mark that is not closed.") from None
    pairs = []
    for line, row in enumerate(rows, start=1):
        if not row or (line == 1 and row[0].strip().lower() in _HEADERS):
            continue
        if len(row) != 2:
            raise DiscliError(f"Labels: {path}, line {line}: {len(row)} columns.", "Each line is name,label.")
        pairs.append((row[0].strip(), row[1].strip()))
    return _unique(pairs, str(path)), []


def _unique(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, label in pairs:
        if mapping.setdefault(name, label) != label:
            raise DiscliError(f"Labels: {where} labels {name} both {mapping[name]} and {label}.", "Keep one of them.")
    return mapping


def _lookup(mapping: Mapping[str, Any], name: str, depth: int) -> Any:
    for key in (name, name.split("/", depth)[-1], name.rsplit("/", 1)[-1]):
        if mapping.get(key) is not None:
            return mapping[key]
    return None


def _shared_depth(names: Sequence[str]) -> int:
    """How many outermost folders all names have in common."""
    if not names:
        return 0
    first, last = min(names).split("/")[:-1], max(names).split("/")[:-1]
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    return depth
