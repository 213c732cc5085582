"""Bad files, names and options, by kind."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CANARY = "canary"
_STEPS = 24
_HDF5 = {"terminations": "terminals", "truncations": "timeouts"}


@dataclass(frozen=True)
class Case:
    """name: what is bad. run: does it, returns an exit status. files: to be removed afterwards."""

    name: str
    run: Callable[[], int]
    files: tuple[Path, ...] = ()


def command(*words: Any) -> Callable[[], int]:
    """The exit status of `diffplan` with these words, to be called."""
    from diffplan.scripts.cli import main

    return partial(main, [str(word) for word in words])


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def good_arrays() -> dict[str, Any]:
    """Two episodes in which nothing is wrong."""
    rng = np.random.default_rng(0)
    states = 0.1 * rng.normal(size=(_STEPS + 1, 3)).cumsum(0)
    return {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, (_STEPS, 2)),
        "rewards": rng.normal(size=_STEPS),
        "terminations": np.zeros(_STEPS, bool),
        "truncations": np.isin(np.arange(_STEPS), (9, _STEPS - 1)),
        "next_observations": states[1:],
    }


def _bad_arrays(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of what is wrong, and the arrays."""
    good = good_arrays()
    for key, array in good.items():
        vector, flag = array.ndim == 2, array.dtype == bool
        if key != "next_observations":
            yield f"no {key}", {k: v for k, v in good.items() if k != key}
        changes: dict[str, Any] = {
            "complex": array.astype(complex),
            "text": np.full(array.shape, "one"),
            "bytes": np.full(array.shape, b"one"),
            "times": np.full(array.shape, "2020-01-01", "datetime64[s]"),
            "objects": np.full(array.shape, None, object),
            "a number": np.float64(1.0),
            "empty": array[:0],
            "a row less": array[:-1],
            "a row more": np.concatenate([array, array[-1:]]),
            "an axis more": np.stack([array] * 2, axis=-1),
            "transposed": array.T if vector else array[None],
            "records": np.zeros(_STEPS, [("a", "f4"), ("b", "f4")]),
        }
        if not flag:
            for name, value in (("NaN", np.nan), ("infinity", np.inf), ("1e300", 1e300)):
                broken = array.astype(float).copy()
                broken[5] = value
                changes[name] = broken
        else:
            for value in (2, -1, 0.5, np.nan, 255):
                odd = array.astype(float)
                odd[5] = value
                changes[f"a flag of {value}"] = odd
            changes["inverted"] = None
        for name, broken in changes.items():
            if broken is not None:
                yield f"{key}: {name}", {**good, key: broken}
    order = np.random.default_rng(1).permutation(_STEPS)
    yield "shuffled rows", {key: array[order] for key, array in good.items()}
    never = {"terminations": np.zeros(_STEPS, bool), "truncations": np.zeros(_STEPS, bool)}
    yield "flags nowhere, next rows", {**good, **never, "actions": 9e9 * good["actions"] ** 99}
    ends = good["truncations"].copy()
    ends[9] = False
    jump = good["next_observations"].copy()
    jump[9] += 5
    yield "an end unmarked", {**good, "truncations": ends, "next_observations": jump}
    limits = np.arange(_STEPS) % 8 == 7
    plain = {k: v for k, v in good.items() if k != "next_observations"}
    limit = {"terminations": limits, "truncations": limits & False}
    yield "terminated at one length", {**plain, **limit}
    yield "rewards all but alike", {**good, "rewards": 1e9 + good["rewards"]}
    yield "actions far from zero", {**good, "actions": 1e9 + good["actions"]}
    for scale in (1e-9, 1e9):
        yield (
            f"an end unmarked, in units of {scale:g}",
            {
                **good,
                "truncations": ends,
                "observations": scale * good["observations"],
                "next_observations": scale * jump,
            },
        )


def _npz(folder: Path) -> Iterator[Case]:
    path = folder / "work" / "case.npz"

    def show(name: str, arrays: dict[str, Any], *options: str) -> Case:
        np.savez(path, **arrays)
        return Case(name, command("datasets", "show", path, *options), (path,))

    for name, arrays in _bad_arrays(folder):
        if name.startswith("flags nowhere"):
            arrays = {**good_arrays(), "truncations": np.zeros(_STEPS, bool)}
        yield show(name, arrays)
    good = good_arrays()
    for name, more in {
        "misspelt": {"next_observation": good["next_observations"]},
        "goals without columns": {"goals": good["observations"][:, :2]},
        "goal columns outside": {"goal_columns": np.array([0, 7])},
        "goal columns of halves": {"goal_columns": np.array([0.5])},
        "goal columns below zero": {"goal_columns": np.array([-1])},
        "goals elsewhere": {
            "goals": good["observations"][:, :2] + 99,
            "goal_columns": np.array([0, 1]),
        },
        "goals of another width": {
            "goals": good["observations"],
            "goal_columns": np.array([0, 1]),
        },
        "a pickle": {"rewards": np.array([Canary(folder / CANARY)] * _STEPS, object)},
    }.items():
        without = {k: v for k, v in good.items() if k not in (more if "a pickle" in name else ())}
        if name == "misspelt":
            del without["next_observations"]
        yield show(name, {**without, **more})
    batched = {key: np.stack([array] * 3) for key, array in good.items()}
    yield show("two axes", batched)
    yield show("two axes the other way", {k: np.swapaxes(v, 0, 1) for k, v in batched.items()})
    yield show("one axis, --layout", good, "--layout", "episodes")
    yield show("another --layout", good, "--layout", "sideways")
    yield show("an unknown environment", good, "--env", "NoSuch-v0")
    yield show("an environment that does not fit", good, "--env", "no_such_module:Tank-v0")


def _hdf5(folder: Path) -> Iterator[Case]:
    path = folder / "work" / "case.hdf5"

    def show(name: str, fill: Callable[[h5py.File], None]) -> Case:
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            fill(file)
        return Case(name, command("datasets", "show", path), (path,))

    for name, arrays in _bad_arrays(folder):
        # what HDF5 cannot hold, and timeouts, which may be left out
        if any(word in name for word in ("objects", "text", "times", "no truncations", "nowhere")):
            continue

        def fill(file: h5py.File, arrays: dict[str, Any] = arrays) -> None:
            for key, array in arrays.items():
                file[_HDF5.get(key, key)] = array

        yield show(name, fill)
    good, other = good_arrays(), folder / "other.hdf5"
    with h5py.File(other, "w") as file:
        for key, array in good.items():
            file[_HDF5.get(key, key)] = array

    def linked(key: str, where: Any) -> Callable[[h5py.File], None]:
        def fill(file: h5py.File) -> None:
            for each, array in good.items():
                if each != key:
                    file[_HDF5.get(each, each)] = array
            if callable(where):
                where(file)
            else:
                file[_HDF5.get(key, key)] = where

        return fill

    for key in good:
        link = h5py.ExternalLink(str(other), _HDF5.get(key, key))
        yield show(f"{key} linked", linked(key, link))
    yield show("a group linked", linked("infos", h5py.ExternalLink(str(other), "/")))
    yield show("a link to nowhere", linked("rewards", h5py.SoftLink("/nowhere")))

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((_STEPS, 3), "f8")
        layout[:] = h5py.VirtualSource(str(other), "observations", shape=(_STEPS, 3))
        file.create_virtual_dataset("observations", layout)

    yield show("virtual", linked("observations", virtual))

    def huge(file: h5py.File) -> None:
        for key in ("observations", "actions"):
            file.create_dataset(key, (10**11, 2), "f8", chunks=(9, 2))

    yield show("huge and unwritten", huge)
    yield show("nothing in it", lambda _: None)
    yield show("Minari's inside", lambda file: file.update({"episode_0": 1}))


def _damaged(folder: Path) -> Iterator[Case]:
    work = folder / "work"
    np.savez(work / "whole.npz", **good_arrays())
    with h5py.File(work / "whole.hdf5", "w") as file:
        for key, array in good_arrays().items():
            file[_HDF5.get(key, key)] = array
    for suffix in (".npz", ".hdf5"):
        whole = (work / f"whole{suffix}").read_bytes()
        (work / f"whole{suffix}").unlink()
        for share in np.linspace(0, 0.97, 30):
            path = work / f"cut{suffix}"
            path.write_bytes(whole[: int(share * len(whole))])
            yield Case(f"{suffix} cut at {share:.2f}", command("datasets", "show", path), (path,))
        for name, content in {"zeros": bytes(999), "text": b"hello", "a head": whole[:64]}.items():
            path = work / f"odd{suffix}"
            path.write_bytes(content)
            yield Case(f"{suffix} of {name}", command("datasets", "show", path), (path,))


def _kinds(folder: Path) -> Iterator[Case]:
    work = folder / "work"
    content = pickle.dumps(Canary(folder / CANARY))
    suffixes = (
        *("pkl", "pickle", "joblib", "pt", "pth", "npy", "parquet", "arrow", "csv", "tsv", "json"),
        *("jsonl", "mat", "zip", "gz", "tar", "txt", "bag", "safetensors", "NPZ", "HDF5", "npz"),
    )
    for suffix in suffixes:
        path = work / f"demos.{suffix}"
        path.write_bytes(content)
        yield Case(f"a .{suffix} file", command("datasets", "show", path), (path,))
    for name, inside in {
        "Minari": "data/metadata.json",
        "LeRobot": "meta/info.json",
        "Hugging Face": "dataset_info.json",
        "a run": "checkpoint-00000001/config.json",
        "empty": ".keep",
    }.items():
        path = work / "a-folder"
        (path / inside).parent.mkdir(parents=True)
        (path / inside).write_text("{}")
        for words in (("datasets", "show"), ("evaluate",), ("calibrate",)):
            if name == "a run" and words == ("evaluate",):
                continue
            yield Case(f"{words[0]} of a folder: {name}", command(*words, path))
        shutil.rmtree(path)
    odd = ("", "../x", "~nobody/x.npz", "a\nb", "\x00", "x" * 300)
    for name in ("no-such-data", "no/such/data-v0", *odd):
        yield Case(f"a name: {name[:9]!r}", command("datasets", "show", name))


def _options(folder: Path) -> Iterator[Case]:
    from diffplan.scripts.cli import COMMANDS

    train = ("train", "trajectory-diffuser", "--dataset", "x", "--out", str(folder / "work" / "o"))
    for option in (
        *("steps", "seed", "threads", "checkpoint-every", "plan.horizon", "plan.stride"),
        *("training.batch-size", "proposer.width", "denoiser.width", "denoiser.depth"),
        *("planning.candidates", "planning.denoising-steps", "planning.replan-every"),
    ):
        for value in ("many", "-1", "1.5", "", "1e3", "nan", "99999999999999999999999"):
            yield Case(f"--{option} {value}", command(*train, f"--{option}", value))
    for option in ("training.learning-rate", "training.ema", "data.discount", "denoiser.dropout"):
        for value in ("fast", "-1", "nan", "inf", ""):
            yield Case(f"--{option} {value}", command(*train, f"--{option}", value))
    for option in ("preset", "layout", "terminations", "denoiser.network", "planning.sampler"):
        yield Case(f"--{option} odd", command(*train, f"--{option}", "odd"))
        yield Case(f"--{option} without", command(*train, f"--{option}"))
    for words in COMMANDS:
        yield Case(f"{' '.join(words)} --no-such", command(*words, "--no-such-option"))
    for typed in (("trian",), ("datasets",), ("datasets", "mak"), ("train",), ("train", "nothing")):
        yield Case(" ".join(typed), command(*typed))


FILES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "npz files": _npz,
    "HDF5 files": _hdf5,
    "damaged files": _damaged,
    "other kinds": _kinds,
    "options": _options,
}
"""Kind -> its cases; the files of one are there until the next is asked for."""
