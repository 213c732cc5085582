"""Files that results are kept in: tried before anything is computed, written whole."""

import contextlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.errors import DiffplanError

_PROBE = 1 << 16  # bytes
_LONG = 120  # characters of a path in a message
_LONGEST = 1000  # bytes of a path; systems take 1024 to 4096 of an absolute one


def check_writable(path: Path, what: str) -> None:
    """Try the place of a file, so that nothing is computed that cannot be kept.

    Folders that are made for it are removed again.

    Raises:
        DiffplanError: `path` is a folder or lies in a dataset's, or nothing can be written beside
            it.
    """
    if "\0" in str(path) or len(os.fsencode(path)) > _LONGEST:
        raise DiffplanError(f"{what} {str(path)[:_LONG]!r}... is no name that a file can have")
    with contextlib.suppress(OSError):  # a name that is too long, which is said below
        for folder in path.absolute().parents:
            if _is_dataset(folder):
                raise DiffplanError(
                    f"{what} {path} lies in {folder}, the folder of a dataset; name another place"
                )
        if path.is_dir():
            raise DiffplanError(f"{what} {path} is a folder; give the name of a file")
        # a device or a pipe would be replaced by the results
        if path.exists() and not path.is_file():
            raise DiffplanError(f"{what} {path} is no regular file; name another place")
    # a name that no other process probes with at the same time
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        made = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # as much as results take: a full disk has names left
            probe.write_bytes(bytes(_PROBE))
        finally:
            probe.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process may be there by now
                for folder in made:
                    folder.rmdir()
    except OSError as error:
        shown = str(path) if len(str(path)) <= _LONG else f"{str(path)[:_LONG]}..."
        raise DiffplanError(
            f"{what} {shown} cannot be written: {error.strerror}; name another place"
        ) from None


def _is_dataset(folder: Path) -> bool:
    inside = ("episodes.json", "main_data.hdf5", "data/metadata.json", "meta/info.json")
    with contextlib.suppress(OSError):  # what cannot be looked into cannot be written to either
        return any((folder / name).is_file() for name in inside)
    return False


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results atomically; NaN and infinity, which JSON has not, become null."""
    text = json.dumps(_plain(results), indent=1, allow_nan=False)
    # Lists of numbers on one line: a hundred episodes stay readable.
    text = re.sub(r"\[\n[-+\w.,\s]*\]", lambda found: " ".join(found[0].split()), text)
    with written_whole(path) as partial:
        partial.write_text(text + "\n")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name to write under, renamed to `path` at the end; nothing is left where that fails.

    Whoever reads meanwhile finds the old file or the new one.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
