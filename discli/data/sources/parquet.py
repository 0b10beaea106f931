"""Hugging Face parquet files of images. Needs pyarrow, which is optional."""

import importlib
from pathlib import Path
from typing import Any

from discli.data.images import ImageError
from discli.data.labels import UNLABELLED, Labels
from discli.data.sources import Entry, ImageSource, Locator, Reader, checked, one_split
from discli.runtime.errors import DiscliError
from discli.runtime.files import parse_json


class ParquetReader:
    """Locator: (which file, row group, row in the group) of an image column {bytes, path}."""

    def __init__(self, paths: list[str], column: str) -> None:
        self.paths, self.column = paths, column
        self._group: tuple[int, int] | None = None
        self._rows: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "column": self.column, "_group": None, "_rows": None}

    def read(self, locator: Locator) -> bytes:
        which, group, row = locator
        if self._group != (which, group):
            with _pyarrow_parquet().ParquetFile(self.paths[which]) as file:
                self._rows = file.read_row_group(group, columns=[self.column]).column(self.column)
            self._group = (which, group)
        value = self._rows[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise ImageError("the row holds no bytes, only a path")
        return checked(data, len(data))


class Parquet(ImageSource):
    """Rows with an image column {bytes, path} and, if there is one, a label column.

    Labels are named from the class list that the datasets library leaves in the schema.
    """

    kind = "parquet"
    in_order = True

    @classmethod
    def matches(cls, path: Path) -> bool:
        return path.suffix == ".parquet"

    def list_images(self) -> Reader:
        one_split(self.paths, self.where)
        parquet = _pyarrow_parquet()
        image, label = "", None
        for which, path in enumerate(self.paths):
            try:
                file = parquet.ParquetFile(path)
            except Exception as error:  # pyarrow's own errors; which ones depends on where the file is corrupt
                raise DiscliError(f"{path} is no parquet file: {error}.", "Fetch it again.") from None
            size = path.stat().st_size
            with file:
                if which == 0:
                    features = _features(file.schema_arrow)
                    label = _label_column(file.schema_arrow, features)
                    self.class_names = features.get(label or "", {}).get("names", ())
                    image = _image_column(file.schema_arrow, path)
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    labels = file.read_row_group(group, columns=[label])[label].to_pylist() if label else [None] * rows
                    for row in range(rows):
                        name = f"{path.stem}/{group:04d}/{row:06d}"
                        self.entries.append(Entry(name, size, (which, group, row), labels[row]))
        return ParquetReader([str(path) for path in self.paths], image)

    def labels(self) -> Labels:
        return UNLABELLED if self.entries[0].label is None else super().labels()


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


def _pyarrow_parquet() -> Any:
    """The optional pyarrow.parquet module. Raises DiscliError where it is not installed."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DiscliError("Parquet files need pyarrow.", "Install it: pip install 'discli[parquet]'") from None
