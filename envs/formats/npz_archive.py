"""Arrays of a .npz archive, unpacked and checked: names, kinds, shapes, sizes."""

from __future__ import annotations

import difflib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffplan.errors import DiffplanError

REQUIRED = ("observations", "actions", "rewards", "terminations", "truncations")
OPTIONAL = ("next_observations", "goals", "goal_columns", "rest_columns")
COLUMNS = ("goal_columns", "rest_columns")
LAYOUTS = {
    "episodes": "[episodes, steps, ...], each row one episode, padded after its end",
    "environments": "[steps, environments, ...], as a vector environment records",
}
_VECTORS = ("observations", "actions", "next_observations", "goals")
# What the keys are called elsewhere: in D4RL, in older Gym, in replay buffers.
_OTHER_NAMES = {
    "terminals": "terminations",
    "terminated": "terminations",
    "dones": "terminations",
    "timeouts": "truncations",
    "truncated": "truncations",
    "next_obs": "next_observations",
    "obs": "observations",
}
_PIECE_BYTES = 1 << 22
_LARGE = 1 << 30
_RATIO = 200  # no large archive of measured numbers is packed that well


def unpacked(path: Path, folder: Path, progress: bool) -> dict[str, np.ndarray]:
    """The arrays with known names, as they are in the file, memory-mapped from `folder`.

    Raises DiffplanError for files of another kind, damaged ones, names that are missing or
    misspelt, and what unpacks to far more than its size or than there is room for.
    """
    if not zipfile.is_zipfile(path):
        raise DiffplanError(f"{path} is not a .npz archive (or cut short); write it by numpy.savez")
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
            check_names(path, list(members))
            keys = [key for key in (*REQUIRED, *OPTIONAL) if key in members]
            total = sum(members[key].file_size for key in keys)
            # the flat copy needs as much again
            check_room(path, total, sum(members[key].compress_size for key in keys), 2, folder)
            with bar(f"unpacking {path.name}", total, "B", progress) as shown:
                for key in keys:
                    _extract(archive, key, folder / f"{key}.npy", shown)
                    arrays[key] = np.lib.format.open_memmap(folder / f"{key}.npy", mode="r")
    except (DiffplanError, OSError):
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds for what is damaged
        reason = "it holds Python objects" if "Python objects" in str(error) else error
        raise DiffplanError(f"{path} is no readable .npz archive of numbers: {reason}") from None
    return arrays


def check_archive(path: Path, folder: Path) -> None:
    """`check_room` for all that an archive holds, once, in memory or in `folder`."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            sizes = [(each.file_size, each.compress_size) for each in archive.infolist()]
        check_room(path, sum(a for a, _ in sizes), sum(b for _, b in sizes), 1, folder)


def check_room(path: Path, size: int, packed: int, copies: int, folder: Path) -> None:
    """Raise DiffplanError for a file of `packed` bytes that grows to `size` as none of data does.

    Or for which `folder` has no room, `copies` times over.
    """
    if size > _LARGE and size > _RATIO * max(packed, 1):
        raise DiffplanError(
            f"{path} would grow from {packed / 1e6:.1f} MB to {size / 1e9:,.1f} GB when it is "
            "unpacked: it holds no measured numbers, or was made to fill a disk"
        )
    free = shutil.disk_usage(folder).free
    if copies * size > free:
        raise DiffplanError(
            f"{path} needs {copies * size / 1e9:.1f} GB under {folder.parent}, which has "
            f"{free / 1e9:.1f} GB left; set DIFFPLAN_CACHE to a folder with space"
        )


def _extract(archive: zipfile.ZipFile, key: str, target: Path, shown: tqdm) -> None:
    with archive.open(f"{key}.npy") as member, open(target, "wb") as file:
        while piece := member.read(_PIECE_BYTES):
            file.write(piece)
            shown.update(len(piece))


def bar(description: str, total: int, unit: str, progress: bool) -> tqdm:
    """A bar for what takes longer than a moment."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        delay=1.0,
        disable=not progress,
    )


def check_names(path: Path, there: list[str]) -> None:
    """Raise DiffplanError for names of arrays that are missing or misspelt."""
    for key in REQUIRED:
        if key in there:
            continue
        other = [name for name in there if _OTHER_NAMES.get(name) == key]
        hint = f"rename {other[0]} to {key}" if other else f"expected {', '.join(REQUIRED)}"
        if key == "truncations":  # what only knows `done` has none
            hint += "; where no time limit cut an episode they are all zero"
        raise DiffplanError(
            f"{path}: {key} missing; it holds {', '.join(there)[:200] or 'nothing'}; {hint}"
        )
    for name in there:
        if name in (*REQUIRED, *OPTIONAL):
            continue
        meant = _OTHER_NAMES.get(name) or next(
            iter(difflib.get_close_matches(name, OPTIONAL, n=1, cutoff=0.8)), None
        )
        # an unknown key is no mistake by itself, a misspelt optional one would be lost in silence
        if meant in OPTIONAL and meant not in there:
            raise DiffplanError(f"{path}: {name} is not read; rename it to {meant} or leave it out")


def checked(
    path: Path, raw: Mapping[str, np.ndarray], layout: str | None, folder: Path
) -> dict[str, np.ndarray]:
    """The arrays with the right shapes and kinds of numbers, one row a step; columns as int64.

    layout: of the leading axes, one of LAYOUTS, None for one row a step. folder: for copies.
    """
    axes = 1 if layout is None else 2
    lead = raw["actions"].shape[:axes]
    if len(lead) < axes or 0 in lead:
        raise DiffplanError(
            f"{path} holds no steps: actions has shape {raw['actions'].shape}, expected "
            f"({', '.join(['N', 'T'][:axes])}, A)"
        )
    arrays = {}
    for key, array in raw.items():
        # floats, integers and flags; no complex numbers, text or objects
        if array.dtype.kind not in "fiub":
            raise DiffplanError(f"{path}: {key} holds {array.dtype}, expected numbers")
        if key in COLUMNS:
            columns = np.atleast_1d(array)
            if columns.dtype == np.bool_:
                raise DiffplanError(
                    f"{path}: {key} is a mask, expected the numbers of the columns: "
                    f"{np.flatnonzero(columns).tolist()}"
                )
            if columns.ndim != 1 or not np.isin(columns, np.arange(1 << 16)).all():
                raise DiffplanError(
                    f"{path}: {key} is {str(array.tolist())[:80]}, expected whole numbers"
                )
            arrays[key] = columns.astype(np.int64)
            continue
        if key not in _VECTORS and array.shape == (*lead, 1):
            array = array[..., 0]
        _check_shape(path, key, array.shape, lead, raw)
        arrays[key] = array if layout is None else _flat(array, layout, folder / f"flat_{key}.npy")
    if (after := arrays.get("next_observations")) is not None:
        width = arrays["observations"].shape[1]
        if after.shape[1] != width:
            raise DiffplanError(
                f"{path}: next_observations have {after.shape[1]} columns, observations {width}"
            )
    return arrays


def _flat(array: np.ndarray, layout: str, target: Path) -> np.ndarray:
    """Series after series, one row a step: [A, B, ...] -> [A * B, ...]."""
    if layout == "episodes":
        return array.reshape(-1, *array.shape[2:])
    steps, series = array.shape[:2]
    shape = (steps * series, *array.shape[2:])
    flat = np.lib.format.open_memmap(target, mode="w+", dtype=array.dtype, shape=shape)
    for i in range(series):
        flat[i * steps : (i + 1) * steps] = array[:, i]
    return flat


def flags(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Flags [N] as bool."""
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise DiffplanError(
            f"{path}: {key} holds {array[wrong[0]]} at step {wrong[0]}, expected 0 or 1"
        )
    return np.asarray(array).astype(np.bool_)


def _check_shape(
    path: Path,
    key: str,
    shape: tuple[int, ...],
    lead: tuple[int, ...],
    raw: Mapping[str, np.ndarray],
) -> None:
    vector = key in _VECTORS
    fits = len(shape) == len(lead) + vector and shape[: len(lead)] == lead
    if fits and 0 not in shape:
        return
    sizes = ", ".join(map(str, lead))
    expected = f"({sizes}, *)" if vector else f"({sizes},)"
    # rewards are one number a step: two axes of theirs are of episodes or environments
    two = raw["rewards"].shape
    if len(two) == 3 and two[2] == 1:
        two = two[:2]
    fix = ""
    if len(lead) == 1 and len(two) == 2 and 1 not in two and raw["actions"].shape[:2] == two:
        fix = (
            f"; rewards have two axes, too: give --layout episodes for {two[0]} episodes of "
            f"{two[1]} steps, --layout environments for {two[0]} steps of {two[1]} environments"
        )
    elif fits:
        fix = "; at least one column"
    elif shape[: len(lead)] != lead:
        fix = f"; actions has {sizes} steps, and every array one row a step"
    elif vector and len(shape) == len(lead):
        fix = f"; for a single column write {key}[..., None]"
    elif vector:
        flat = (*lead, int(np.prod(shape[len(lead) :])))
        fix = f"; flatten them to {flat}, also in the environment"
    raise DiffplanError(f"{path}: {key} has shape {shape}, expected {expected}{fix}")
