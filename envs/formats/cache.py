"""Converted datasets on disk: slow formats are read once and memory-mapped from then on."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from diffplan.data.episodes import FORMAT, Episodes
from diffplan.data.folders import building_folder, cache_root
from diffplan.errors import DiffplanError

# Raised whenever a loader would turn the same file into other arrays or other details.
_LOADERS = 5


def cached(
    name: str,
    files: Iterable[Path],
    settings: str,
    convert: Callable[[Path], None],
) -> Episodes:
    """The flat copy of a dataset, made by `convert` unless a fresh one is on disk.

    name: what to call the copy, for people who look into the folder.
    files: the files it is made from; their paths, sizes and modification times are the key, so
        that a dataset that was made again is converted again, and its old copy removed.
    settings: whatever else the result depends on.
    convert: writes the copy, as `Episodes.save` does, into the folder it is given.
    """
    # resolved: one file under two names is converted once
    files = [path.resolve() for path in files]
    source = "\n".join([settings, *map(str, files)])
    # not a hash of the content: files of gigabytes would be read for it at every start
    stamps = [f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    slug = re.sub(r"[^\w.-]+", "_", name)
    stem = f"{slug}-{_short_hash(source)}"
    folder = cache_root() / "episodes" / f"{stem}-{_short_hash(f'{FORMAT} {_LOADERS} {stamps}')}"
    if folder.exists():
        try:
            return Episodes.load(folder)
        except DiffplanError:
            shutil.rmtree(folder, ignore_errors=True)  # damaged: convert again
    try:
        _write_once(convert, folder)
        # copies of what the files held before
        for old in folder.parent.glob(f"{stem}-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise DiffplanError(
            f"cannot write the copy of {name} to {folder.parent}: {error}; "
            f"set DIFFPLAN_CACHE to a folder with space"
        ) from None
    return Episodes.load(folder)


def _write_once(convert: Callable[[Path], None], folder: Path) -> None:
    """Write unless another process, say another rank of a training run, was faster."""
    with building_folder(folder.parent, folder.name) as building:
        try:
            convert(building / "copy")
            if not folder.exists():
                os.rename(building / "copy", folder)
        except OSError:
            if not folder.exists():
                raise


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
