"""Datasets made here as files in D4RL's layout, whole or not at all, with how they were made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from diffplan.data.folders import building_folder
from diffplan.errors import DiffplanError


def write_d4rl(
    path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]
) -> None:
    """Write arrays of N rows, floats as float32; what was there is replaced at the end."""
    with building_folder(path.parent, path.name) as building:
        (building / path.name).write_bytes(_file_of(arrays, attributes))
        os.replace(building / path.name, path)


def _file_of(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> bytes:
    """An HDF5 file, made in memory: the library does not survive a disk that is full."""
    with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
        # D4RL's types: float32, and bool for the flags
        for key, array in arrays.items():
            stored = array if array.dtype == np.bool_ else array.astype(np.float32)
            file.create_dataset(key, data=stored, compression="gzip")
        file.attrs.update(attributes)
        file.flush()
        return bytes(file.id.get_file_image())


def already_made(path: Path, attributes: Mapping[str, object], keys: Sequence[str]) -> bool:
    """Whether the file there is the one asked for, by these attributes.

    Raises DiffplanError if it is another one.
    """
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            there = {key: file.attrs.get(key) for key in keys}
    except OSError:
        there = dict.fromkeys(keys)
    if there == {key: attributes[key] for key in keys}:
        return True
    asked = ", ".join(f"{key} {attributes[key]}" for key in keys)
    has = ", ".join(f"{key} {there[key]}" for key in keys)
    raise DiffplanError(f"{path} exists with {has}; asked for {asked}: give --overwrite")
