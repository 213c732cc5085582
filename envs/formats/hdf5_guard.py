"""Keeps an HDF5 file from reading others, and from claiming more than a disk holds."""

from __future__ import annotations

from pathlib import Path

import h5py

from diffplan.envs.formats.npz_archive import check_room
from diffplan.errors import DiffplanError

_DEEP = 64  # groups in groups


def check_own_file(path: Path, file: h5py.File, *, beside: bool = False) -> None:
    """Raise DiffplanError unless all that a file holds lies in it, in no more room than data need.

    External links, virtual datasets and external storage name other files, which anybody's data
    could read from this machine. beside: links to files of the same folder pass, as Minari writes.
    """
    _check_group(path, file, "", beside, set())


def check_minari_file(path: Path) -> None:
    """The same for one of a Minari dataset; what cannot be opened is left to its reader."""
    try:
        file = h5py.File(path, "r")
    except OSError:
        return
    with file:
        check_own_file(path, file, beside=True)


def _check_group(path: Path, group: h5py.Group, prefix: str, beside: bool, seen: set[int]) -> None:
    # hard links may go in circles
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return
    seen.add(address)
    if prefix.count("/") > _DEEP:
        raise DiffplanError(f"{path}: groups are nested more than {_DEEP} deep at {prefix[:60]}")
    for name in group:
        where = prefix + name
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            if beside and Path(link.filename).name == link.filename:
                continue
            raise DiffplanError(
                f"{path}: {where} is a link into another file ({link.filename}), which is not "
                "followed; copy the data into the file, e.g. by h5repack or h5py"
            )
        node = group.get(name)
        if isinstance(node, h5py.Group):
            _check_group(path, node, f"{where}/", beside, seen)
        elif isinstance(node, h5py.Dataset):
            _check_dataset(path, node, where)


def _check_dataset(path: Path, node: h5py.Dataset, where: str) -> None:
    if node.is_virtual or node.external:
        kind = "a virtual dataset" if node.is_virtual else "stored in another file"
        raise DiffplanError(
            f"{path}: {where} is {kind}, which is not followed; copy the data into the file"
        )
    if node.dtype.kind in "fiub":
        # what was never written reads as zeros, however large
        check_room(path, int(node.nbytes), node.id.get_storage_size(), 0, path.parent)
