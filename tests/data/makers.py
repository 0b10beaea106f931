"""Small real files to encode: images of known content, and archives of them."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, width: int = 20, height: int = 16) -> np.ndarray:
    """(height, width, 3) uint8: smooth enough for JPEG, different for each seed, no symmetry."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))


def saved(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def class_files(classes: tuple[str, ...] = ("ant", "bee"), each: int = 3) -> dict[str, bytes]:
    """ant/0.png, ... as name -> bytes, in sorted order."""
    return {f"{name}/{k}.png": saved(pixels(10 * place + k)) for place, name in enumerate(classes) for k in range(each)}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, files: Mapping[str, bytes], labels: list[int], classes: list[str], group: int) -> Path:
    """As the datasets library writes an image dataset."""
    import json

    import pyarrow
    import pyarrow.parquet

    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    table = pyarrow.table(
        {"image": [{"bytes": data, "path": name} for name, data in files.items()], "label": labels}
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path
