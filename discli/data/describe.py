"""What a file of ``discli encode`` holds, with an image of it where there is something to see."""

from pathlib import Path
from typing import Any

import numpy as np

from discli.data.contact_sheet import save_image
from discli.data.preview import samples_beside_sources
from discli.data.store import Store
from discli.runtime.console import format_bytes, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.facts import Facts


def data_facts(path: Path, sheet: Path | None, count: int, vae: str | None, device: str | None) -> Facts:
    """The file's contract, and ``count`` of its samples as an image, at ``sheet`` or beside the file.

    Raises DiscliError for what is no such file, or not whole. An image that cannot be made costs itself alone.
    """
    store = Store(path, parts=True)
    files = [shard.path for shard in store.shards]
    size = sum(file.stat().st_size for file in files)
    rows = [("file", f"{path} ({format_bytes(size)})"), *store.contract.describe()]
    if len(files) > 1:
        rows.insert(1, ("files", f"{len(files):,} in this order: {_in_short([str(file) for file in files])}"))
    record: dict[str, Any] = {"kind": "data", "file": str(path), "bytes": size, "sheet": None}
    record["files"] = [str(file) for file in files]
    if store.shapes is not None:
        counts = np.bincount(store.shapes, minlength=len(store.contract.sizes)).tolist()
        shown = ", ".join(
            f"{count:,} of {size.height}x{size.width} px"
            for count, size in zip(counts, store.contract.sizes, strict=True)
        )
        rows.append(("shapes", shown))
        record["shape_counts"] = counts
    record["contract"] = store.contract.model_dump(mode="json")
    if store.labels is not None:
        sizes = np.bincount(store.labels, minlength=store.contract.num_classes)
        record["class_sizes"] = sizes.tolist()
        spread = "each" if sizes.min() == sizes.max() else f"to {sizes.max():,}"
        rows.append(("class sizes", f"{sizes.min():,} {spread}"))
    if not count or not len(store):
        return Facts(rows, record)
    sheet = sheet or store.beside(".samples.png")
    try:
        image, columns = samples_beside_sources(store, count, vae, device)
        save_image(image, sheet)
    except (DiscliError, OSError) as error:
        stderr.print(f"No contact sheet: {error}")
        return Facts(rows, record)
    record |= {"sheet": str(sheet), "sheet_columns": columns}
    rows.append(("sheet", f"{sheet}: {' | '.join(columns)}, of {min(count, len(store))} images"))
    return Facts(rows, record)


def _in_short(names: list[str]) -> str:
    return ", ".join(names if len(names) < 6 else [*names[:3], "...", names[-1]])
