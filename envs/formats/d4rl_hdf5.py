"""Reads HDF5 files in the D4RL layout in pieces, checks them, and fetches D4RL's own."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffplan.envs.formats.d4rl_catalogue import D4RLDataset
from diffplan.envs.formats.download import download
from diffplan.envs.formats.hdf5_guard import check_own_file
from diffplan.envs.formats.store import less
from diffplan.errors import DiffplanError

D4RL_SUFFIXES = (".hdf5", ".h5")
_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations", "infos/goal")
# What the keys are called elsewhere: in Gymnasium, in replay buffers.
_OTHER_NAMES = {
    "terminations": "terminals",
    "terminated": "terminals",
    "dones": "terminals",
    "truncations": "timeouts",
    "truncated": "timeouts",
    "next_obs": "next_observations",
    "obs": "observations",
}
_VECTORS = ("observations", "next_observations", "actions", "infos/goal")
# read at a time: small enough for a cache, large enough for the disk
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class D4RLFile:
    """An open file in the D4RL layout whose kinds and shapes are checked.

    path: of the file. steps: N. arrays: keys of the layout to datasets with N rows. keys: of
    everything in the file, groups included. attributes: the plain ones of the file.
    """

    path: Path
    steps: int
    arrays: dict[str, h5py.Dataset]
    keys: frozenset[str]
    attributes: dict[str, Any]

    def width(self, key: str) -> int:
        """Columns of a vector array."""
        return int(self.arrays[key].shape[1])

    def column(self, key: str) -> np.ndarray:
        """A whole array over time, [N] float32, or bool for terminals and timeouts.

        Raises DiffplanError for flags other than 0 and 1.
        """
        found = _read(self.path, self.arrays[key], slice(None)).reshape(-1)
        if key not in ("terminals", "timeouts"):
            return less(found, None)
        wrong = np.flatnonzero((found != 0) & (found != 1))
        if len(wrong):
            raise DiffplanError(
                f"{self.path}: {key} holds {found[wrong[0]]} at step {wrong[0]}, expected 0 or 1"
            )
        return found.astype(np.bool_, copy=False)

    def rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of an array as they are in the file."""
        return _read(self.path, self.arrays[key], slice(start, stop))

    def piece(
        self, key: str, start: int, stop: int, offset: np.ndarray | None = None
    ) -> np.ndarray:
        """Rows start to stop of a vector array less an offset, [stop - start, *] float32."""
        return less(self.rows(key, start, stop), offset)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Bounds (start, stop) of pieces of about 4 MiB of observations, in order.

        They end where the compressed chunks of the file end, so that few are unpacked twice.
        """
        observations = self.arrays["observations"]
        chunk = observations.chunks[0] if observations.chunks else 1
        row = max(observations.dtype.itemsize * self.width("observations"), 1)
        size = max(_PIECE_BYTES // row // chunk, 1) * chunk
        for start in range(0, self.steps, size):
            yield start, min(start + size, self.steps)


# what h5py raises for damaged files, depending on where the damage is
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)


@contextlib.contextmanager
def open_d4rl(path: Path) -> Iterator[D4RLFile]:
    """Open a file in the D4RL layout.

    Raises DiffplanError, here or while it is read, for damaged files, missing keys, shapes and
    types that do not fit.
    """
    try:
        file = h5py.File(path, "r")
    except _DAMAGE as error:
        raise _unreadable(path, error) from None
    with file:
        try:
            check_own_file(path, file)
            checked = _checked(path, file)
        except _DAMAGE as error:
            raise _unreadable(path, error) from None
        yield checked


def _read(path: Path, array: h5py.Dataset, rows: slice) -> np.ndarray:
    try:
        return np.asarray(array[rows] if array.shape else array[()])
    except _DAMAGE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DiffplanError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DiffplanError(f"{path} is no readable HDF5 file: {reason}")


def _checked(path: Path, file: h5py.File) -> D4RLFile:
    missing = [key for key in _REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        there = ", ".join(sorted(file)) or "nothing"
        if "episode_0" in file:
            raise DiffplanError(
                f"{path} is the inside of a Minari dataset: set MINARI_DATASETS_PATH to the folder "
                "of the datasets and name it by its id"
            )
        if ("data" in file and "mask" in file) or "demo_0" in file.get("data", ()):
            raise DiffplanError(
                f"{path} is in robomimic's layout, which is not read: write flat arrays (see "
                "docs/own_data.md) with timeouts at the end of each demonstration"
            )
        other = [f"{n} to {_OTHER_NAMES[n]}" for n in file if _OTHER_NAMES.get(n) in missing]
        raise DiffplanError(
            f"{path} is not in the D4RL layout: {', '.join(missing)} missing; it holds "
            f"{there[:200]}{(other and f'; rename {other[0]}') or ''}"
        )
    for name in file:
        meant = _OTHER_NAMES.get(name) or next(
            iter(difflib.get_close_matches(name, _OPTIONAL, n=1, cutoff=0.85)), None
        )
        # lost in silence, it would change where episodes end
        if name not in _OPTIONAL and meant in _OPTIONAL and meant not in file:
            raise DiffplanError(f"{path}: {name} is not read; rename it to {meant} or leave it out")
    arrays = {key: file[key] for key in _REQUIRED}
    arrays |= {key: file[key] for key in _OPTIONAL if isinstance(file.get(key), h5py.Dataset)}
    rewards = arrays["rewards"]
    steps = len(rewards) if rewards.shape else 0
    if not steps:
        raise DiffplanError(f"{path} holds no steps")
    for key, array in arrays.items():
        vector = key in _VECTORS
        shape = array.shape
        if (len(shape) != 2 if vector else shape not in ((steps,), (steps, 1))) or (
            shape[0] != steps
        ):
            expected = f"({steps}, *)" if vector else f"({steps},)"
            fix = ""
            if len(rewards.shape) == 2 and 1 not in rewards.shape:
                fix = (
                    "; rewards have two axes: make them one, episode after episode, or write a "
                    ".npz, which --layout reads"
                )
            raise DiffplanError(f"{path}: {key} has shape {shape}, expected {expected}{fix}")
        if array.dtype.kind not in "fiub":
            raise DiffplanError(f"{path}: {key} holds {array.dtype}, expected numbers")
    if "next_observations" in arrays:
        wide = arrays["next_observations"].shape[1], arrays["observations"].shape[1]
        if wide[0] != wide[1]:
            raise DiffplanError(
                f"{path}: next_observations has {wide[0]} columns, observations {wide[1]}"
            )
    attributes = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in file.attrs.items()
        if isinstance(value, (str, int, float, np.number, np.bool_))
    }
    keys: set[str] = set()
    file.visit(keys.add)
    return D4RLFile(path, steps, arrays, frozenset(keys), attributes)


def check_d4rl_file(path: Path, dataset: D4RLDataset) -> None:
    """Raise DiffplanError unless a file can be read to the end and has a dataset's columns.

    Every array is unpacked, so that damage anywhere is found; HDF5 keeps no checksum of its own,
    but the compressed pieces of D4RL's files do.
    """
    with open_d4rl(path) as file:
        for key, width in (
            ("observations", dataset.observation_dim),
            ("actions", dataset.action_dim),
        ):
            if file.width(key) != width:
                raise DiffplanError(
                    f"{path} is another file than {dataset.name}: {key} has {file.width(key)} "
                    f"columns, expected {width}"
                )
        for array in _datasets(file.arrays["observations"].file):
            rows = len(array) if array.shape else 1
            size = max(_PIECE_BYTES * rows // max(array.nbytes, 1), 1)
            for start in range(0, rows, size):
                _read(path, array, slice(start, start + size))


def _datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(lambda _, node: found.append(node) if isinstance(node, h5py.Dataset) else None)
    return found


def fetch_d4rl(dataset: D4RLDataset, progress: bool = True) -> Path:
    """The file of a dataset in the D4RL folder, downloaded from `dataset.url` if it is not there.

    Raises DiffplanError without a network, for an answer that is no such file, and without room;
    the message says where to put the file by hand.
    """
    return download(
        dataset.url,
        dataset.path,
        lambda path: check_d4rl_file(path, dataset),
        progress=progress,
    )
