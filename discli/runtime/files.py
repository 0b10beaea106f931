"""Writing files so that a name always stands for something whole, the old content or the new; and reading JSON."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from discli.runtime.errors import DiscliError

Model = TypeVar("Model", bound=BaseModel)

_UNFINISHED = ".writing"  # at the end of a temporary file's name


def write_beside(path: Path, fill: Callable[[Path], object]) -> None:
    """``fill`` a temporary file in the same folder, make sure that it is on disk, then give it its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the user's umask; safetensors would let nobody else read it
        fill(temporary)
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # what people know it by
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether it is what `write_beside` leaves behind where the process is killed, or still writes."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


def write_text(path: Path, text: str) -> None:
    """What UTF-8 has no form for, such as halves of characters that a damaged file was read with, is escaped."""
    write_beside(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_json(path: Path) -> Any:
    """Raises OSError for what cannot be read, ValueError for what is no JSON."""
    return parse_json(path.read_text(encoding="utf-8"))


def read_model(path: Path, model: type[Model], how: str) -> Model:
    """A JSON file as ``model``. Raises DiscliError, with ``how`` to fix it, for what cannot be read or is not one."""
    try:
        return check_model(read_json(path), path, model, how)
    except OSError as error:
        raise DiscliError(f"{path} cannot be read: {error.strerror}.", how) from None
    except ValueError as error:
        raise DiscliError(f"{path} is corrupt: it is not JSON ({error}).", how) from None


def check_model(content: Any, path: Path, model: type[Model], how: str) -> Model:
    """``content`` of the JSON file ``path`` as ``model``; DiscliError where it is not one."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its content"
        raise DiscliError(f"{path} is corrupt: {where}: {first['msg']}.", how) from None


def to_json(model: BaseModel) -> str:
    """Unlike pydantic's own, also of file names that are not text."""
    return json.dumps(model.model_dump(mode="json"), indent=1)


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError alone, also for what is no text or nested too deeply for Python to follow."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's renames, outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
