"""What this machine has: sizes are estimated, and refused before work is done in vain."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

from diffplan.errors import DiffplanError

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def total_memory() -> int:
    """Bytes that a process here could ever have: the machine's, its container's, its own limit."""
    found = [sys.maxsize]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max"
            found.append(int(Path(name).read_text()))
    with contextlib.suppress(ImportError):
        import resource

        own, _ = resource.getrlimit(resource.RLIMIT_AS)
        found.append(sys.maxsize if own == resource.RLIM_INFINITY else own)
    return min(found)


def require_memory(size: float, what: str, advice: str) -> None:
    """Raise DiffplanError where `size` bytes, a lower estimate, are more than a process can have.

    what: needs them, the subject of the message. advice: what to do.
    """
    if size > (there := total_memory()):
        raise DiffplanError(
            f"{what} would take at least {size / 1e9:,.1f} GB of memory, and this machine gives a "
            f"process {there / 1e9:,.1f}; {advice}"
        )


def require_disk(folder: Path, size: float, what: str, advice: str) -> None:
    """Raise DiffplanError where `size` bytes, a lower estimate, are not free in `folder`.

    The folder need not be there yet. what, advice: as of `require_memory`.
    """
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), None)
    if there is not None and size > (free := shutil.disk_usage(there).free):
        raise DiffplanError(
            f"{what} would take at least {size / 1e6:,.1f} MB in {folder}, where {free / 1e6:,.1f} "
            f"are free; {advice}"
        )
