"""OGBench's data, remade by its public procedure: mazes, and an arm at play.

The random streams are not OGBench's, and the ant's actor is not its expert, so the data are remade,
not official. Facts from data_gen_scripts of https://github.com/seohongpark/ogbench (MIT).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import uuid
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffplan.envs.makers.catalogue import OGBENCH, MazeSet
from diffplan.envs.makers.ogbench_mazes import maze_episode
from diffplan.envs.makers.ogbench_play import play_episode
from diffplan.envs.rollouts.workers import in_order
from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

_AT_ONCE = 5  # episodes of one job
_KEYS = ("observations", "actions")
_RECIPE = ("name", "episodes", "seed", "ogbench", "mujoco")


def make_ogbench(
    name: str,
    path: Path,
    *,
    episodes: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Make one of OGBench's datasets as an .npz file with OGBench's keys.

    name: a key of OGBENCH. path: the file; "recipe" in it says how it was made. episodes: by
    default as many as in the official training file; the first ones do not depend on how many.
    seed: of starts, goals and noise. workers: processes, one per core up to 8 by default.
    overwrite: replace a file that was made otherwise.

    A file made with the same arguments is kept. An interrupted call goes on where it was, from a
    hidden folder beside the file. Raises DiffplanError for an unknown name, numbers out of range, a
    file that was made otherwise, and where OGBench is not installed.
    """
    if name not in OGBENCH:
        raise DiffplanError(f"unknown OGBench data '{name}'; can be made: {', '.join(OGBENCH)}")
    made = OGBENCH[name]
    count = made.episodes if episodes is None else episodes
    if count < 1 or seed < 0 or (workers is not None and workers < 1):
        raise DiffplanError(
            f"{count} episodes, seed {seed}, workers {workers}: expected at least one episode, a "
            "seed from 0 on and at least one worker"
        )
    require_simulator("ogbench", f"making {name}")
    versions = {package: importlib.metadata.version(package) for package in ("ogbench", "mujoco")}
    recipe = {"name": name, "episodes": count, "seed": seed, **versions}
    if path.exists() and not overwrite:
        before = made_with(path)
        if all(before.get(key) == recipe[key] for key in _RECIPE):
            return
        raise DiffplanError(
            f"{path} was made otherwise ({_said(before)}; asked for {_said(recipe)}); give "
            "--overwrite to replace it"
        )
    # hours for an arm: what is made is kept, whatever ends this, and whatever count is asked for
    made_by = zlib.crc32(json.dumps({**recipe, "episodes": None}).encode())
    parts = path.with_name(f".{path.stem}.{made_by:08x}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    jobs = [
        (name, seed, first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)
    ]
    found = {job: _kept(parts / f"{job[2]}-{job[3]}.npz") for job in jobs}
    missing = [job for job in jobs if found[job] is None]
    there = sum(job[3] - job[2] for job in jobs if found[job] is not None)
    with tqdm(total=count, initial=there, desc=name, unit="episode", disable=not progress) as bar:
        advice = "give fewer --workers"
        told = in_order([partial(_run, job) for job in missing], workers, advice) if missing else ()
        for job, episodes_of_it in zip(missing, told, strict=True):
            observed, done = (np.concatenate(each) for each in zip(*episodes_of_it, strict=True))
            _save(parts / f"{job[2]}-{job[3]}.npz", observations=observed, actions=done)
            found[job] = {"observations": observed, "actions": done}
            bar.update(job[3] - job[2])
    _save(
        path,
        **{key: np.concatenate([part[key] for part in found.values() if part]) for key in _KEYS},
        terminals=np.arange(1, count * made.steps + 1) % made.steps == 0,
        recipe=np.array(json.dumps(recipe)),
    )
    for part in parts.glob("[0-9]*-*.npz"):  # not what a killed call has half written
        if int(part.stem.split("-")[1]) <= count:
            part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # what a longer call has made is left to it
        parts.rmdir()


def _kept(part: Path) -> dict[str, np.ndarray] | None:
    """What an earlier call has made; None where there is nothing, or it is damaged."""
    try:
        with np.load(part) as file:
            return {key: file[key] for key in _KEYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _save(path: Path, **arrays: Any) -> None:
    """Written beside `path` and renamed, so that no half-written file is ever seen."""
    half_done = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.npz")
    try:
        np.savez_compressed(half_done, **arrays)
        half_done.replace(path)
    finally:
        half_done.unlink(missing_ok=True)


def made_with(path: Path) -> dict[str, Any]:
    """The recipe in a file made here; {} for an official one."""
    with np.load(path) as file:
        return json.loads(str(file["recipe"])) if "recipe" in file else {}


def _said(recipe: dict[str, Any]) -> str:
    return ", ".join(f"{key} {recipe.get(key)}" for key in _RECIPE[1:])


_Job = tuple[str, int, int, int]  # name, seed, first episode, the one after the last
_Told = list[tuple[np.ndarray, np.ndarray]]  # observations [T, D] and actions [T, A] of episodes


def _run(job: _Job) -> _Told:
    name, seed, first, last = job
    made = OGBENCH[name]
    # episodes know their own number alone, so that jobs may be cut anyhow
    drawn = [np.random.default_rng([seed, episode]) for episode in range(first, last)]
    if isinstance(made, MazeSet):
        return [maze_episode(made, rng) for rng in drawn]
    return [play_episode(made, rng) for rng in drawn]
