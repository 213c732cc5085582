"""JSON that describes a folder of ours, read with bounds: anybody may have written it."""

from __future__ import annotations

import json
import stat
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diffplan.errors import DiffplanError

_LARGEST = 1 << 24  # bytes; a hundred tasks with their mazes are a few hundred thousand


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises FileNotFoundError where there is none; DiffplanError for anything but a regular file of
    at most 16 MiB, and for what is no JSON.
    """
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DiffplanError(f"{file} is no regular file")
        if about.st_size > _LARGEST:
            raise DiffplanError(
                f"{file} has {about.st_size:,} bytes, expected at most {_LARGEST:,}"
            )
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DiffplanError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DiffplanError(f"{file} is damaged or not JSON: {error}") from None


def typed(file: Path, name: str, kind: Any, value: Any) -> Any:
    """A part of such a file as a dataclass or number, strictly: DiffplanError for another type."""
    try:
        # from JSON, strictly: lists become tuples, but "4" no number
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (name, *first["loc"])))
        raise DiffplanError(
            f"{file}: {key} is {repr(first['input'])[:200]}, expected: {first['msg']}"
        ) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
