"""``discli info``: what a file is, in a table or as JSON, with a picture where there is something to see."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

from discli.console import format_bytes, stderr
from discli.data.store import Store
from discli.encode_sheet import samples_beside_sources
from discli.errors import DiscliError
from discli.report.score_table import fact_table
from discli.report.sheet import save_picture


@dataclass(frozen=True)
class Facts:
    """What there is to say about one thing: ``rows`` (heading, text) for people, ``record`` for programs."""

    rows: list[tuple[str, str]]
    record: dict[str, Any]


def info(
    what: str,
    *,
    as_json: bool = False,
    sheet: Path | None = None,
    count: int = 12,
    vae: str | None = None,
    device: str | None = None,
) -> None:
    """Looks at what it was given, hands it to the function for that kind, and prints what that finds.

    Raises DiscliError for what is none of them, or not whole.
    """
    facts = _data_file(Path(what), sheet, count, vae, device)
    if as_json:
        typer.echo(json.dumps(facts.record, indent=1))
    else:
        Console(highlight=False).print(fact_table(facts.rows))


def _data_file(path: Path, sheet: Path | None, count: int, vae: str | None, device: str | None) -> Facts:
    """A file of ``discli encode``: its contract, and ``count`` of its samples as a picture beside it."""
    store = Store(path, parts=True)
    rows = [("file", f"{path} ({format_bytes(path.stat().st_size)})"), *store.contract.describe()]
    record: dict[str, Any] = {"kind": "data", "file": str(path), "bytes": path.stat().st_size, "sheet": None}
    record["contract"] = store.contract.model_dump(mode="json")
    if store.labels is not None:
        sizes = np.bincount(store.labels, minlength=store.contract.num_classes)
        record["class_sizes"] = sizes.tolist()
        spread = "each" if sizes.min() == sizes.max() else f"to {sizes.max():,}"
        rows.append(("class sizes", f"{sizes.min():,} {spread}"))
    if not count or not len(store):
        return Facts(rows, record)
    sheet = sheet or path.with_suffix(".samples.png")
    try:
        picture, columns = samples_beside_sources(store, count, vae, device)
        save_picture(picture, sheet)
    except (DiscliError, OSError) as error:  # costs the picture, not the facts
        stderr.print(f"No contact sheet: {error}", markup=False)
        return Facts(rows, record)
    record |= {"sheet": str(sheet), "sheet_columns": columns}
    rows.append(("sheet", f"{sheet}: {' | '.join(columns)}, of {min(count, len(store))} pictures"))
    return Facts(rows, record)
