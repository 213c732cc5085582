"""Folders of this project on disk: where copies are kept, and folders that are being written."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = ".lock"
_ABANDONED = 24 * 3600.0  # seconds; where nothing is locked, age alone tells


def cache_root() -> Path:
    """`DIFFPLAN_CACHE`, by default ~/.cache/diffplan."""
    return Path(os.environ.get("DIFFPLAN_CACHE") or Path.home() / ".cache" / "diffplan")


@contextlib.contextmanager
def building_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A hidden folder `parent`/.`prefix`-... to write in; what is complete is renamed out of it.

    It is removed at the end, and at the beginning what killed processes left under the same prefix:
    a living one holds a lock on a file in its folder, which ends with the process.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{prefix}-*"):
        _remove_abandoned(left)
    folder = parent / f".{prefix}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        with FileLock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder unless its process lives."""
    # another process may be at it
    with contextlib.suppress(OSError):
        old = time.time() - folder.stat().st_mtime > _ABANDONED
        if not old and (folder / _LOCK).exists():
            with contextlib.suppress(Timeout), FileLock(folder / _LOCK, timeout=0):
                old = True
        if old:
            shutil.rmtree(folder, ignore_errors=True)
