"""OGBench's maze data, remade by its public procedure.

A body is led through a maze cell by cell along shortest paths: its actor is told the unit direction
to the middle of the next cell, and Gaussian noise is added to its actions. navigate: from goal to
goal; stitch: to a goal four cells away; explore: no goal, a random direction every ten steps.
Facts from data_gen_scripts of https://github.com/seohongpark/ogbench (MIT); the random streams are
not OGBench's, and the ant's actor is not its expert, so the data are remade, not official.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffplan.envs.makers.catalogue import OGBENCH_MAZES, MazeSet
from diffplan.envs.simulators.installed import require_simulator
from diffplan.envs.simulators.ogbench import domain_of, make_simulator, seeded
from diffplan.errors import DiffplanError

_STITCH_CELLS = 4
_EXPLORE_STEPS = 10
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))  # of equally short ways the first is taken
_AT_ONCE = 20  # episodes of one job
_RECIPE = ("name", "episodes", "seed", "ogbench", "mujoco")

Cell = tuple[int, int]
Actor = Callable[[np.ndarray], np.ndarray]
"""From an observation without x and y, a unit direction behind it, to an action."""


def make_ogbench_maze(
    name: str,
    path: Path,
    *,
    episodes: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Make one of OGBench's maze datasets as an .npz file with OGBench's keys.

    name: a key of OGBENCH_MAZES. path: the file; "recipe" in it says how it was made. episodes: by
    default as many as in the official training file; the first ones do not depend on how many.
    seed: of starts, goals and noise. workers: processes, one per core up to 8 by default.
    overwrite: replace a file that was made otherwise.

    A file made with the same arguments is kept. An interrupted call leaves nothing behind. Raises
    DiffplanError for an unknown name, numbers out of range, a file that was made otherwise, and
    where OGBench is not installed.
    """
    if name not in OGBENCH_MAZES:
        raise DiffplanError(
            f"unknown OGBench maze data '{name}'; can be made: {', '.join(OGBENCH_MAZES)}"
        )
    made = OGBENCH_MAZES[name]
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
    jobs = [
        (name, seed, first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)
    ]
    observations, actions = [], []
    with tqdm(total=count, desc=name, unit="episode", disable=not progress) as bar:
        for told in _made(jobs, workers or min(8, os.cpu_count() or 1)):
            for seen, done in told:
                observations.append(seen)
                actions.append(done)
            bar.update(len(told))
    ends = np.arange(1, count * made.steps + 1) % made.steps == 0
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.npz")
    try:
        np.savez_compressed(
            partial,
            observations=np.concatenate(observations),
            actions=np.concatenate(actions),
            terminals=ends,
            recipe=np.array(json.dumps(recipe)),
        )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def made_with(path: Path) -> dict[str, Any]:
    """The recipe in a file made here; {} for an official one."""
    with np.load(path) as file:
        return json.loads(str(file["recipe"])) if "recipe" in file else {}


def _said(recipe: dict[str, Any]) -> str:
    return ", ".join(f"{key} {recipe.get(key)}" for key in _RECIPE[1:])


_Job = tuple[str, int, int, int]  # name, seed, first episode, the one after the last
_Told = list[tuple[np.ndarray, np.ndarray]]  # observations [T, D] and actions [T, A] of episodes


def _made(jobs: list[_Job], workers: int) -> Iterator[_Told]:
    workers = min(workers, len(jobs))
    if workers == 1:
        yield from map(_run, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            yield from pool.map(_run, jobs)
        except BrokenProcessPool:
            raise DiffplanError(
                f"one of the {workers} processes died, perhaps for want of memory; give fewer "
                "--workers"
            ) from None


def _run(job: _Job) -> _Told:
    name, seed, first, last = job
    made = OGBENCH_MAZES[name]
    sim, actor = _simulator(made.env_name), _actor(domain_of(name))
    maze = _Cells(sim)
    # episodes know their own number alone, so that jobs may be cut anyhow
    return [
        _roll_out(sim, maze, actor, made, np.random.default_rng([seed, e]))
        for e in range(first, last)
    ]


@functools.cache
def _simulator(env_name: str) -> Any:
    return make_simulator(env_name, terminate_at_goal=False)


def _roll_out(
    sim: Any, maze: _Cells, actor: Actor, made: MazeSet, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    start = maze.draw(maze.free, rng)
    goals = maze.at_distance(start, _STITCH_CELLS) if made.kind == "stitch" else maze.junctions
    goal = maze.draw(goals, rng) if goals else start
    options = {"task_info": {"init_ij": start, "goal_ij": goal}}
    observations, actions = [], []
    with seeded(sim, int(rng.integers(2**31))) as own:
        observation, _ = sim.reset(seed=own, options=options)
        direction = np.zeros(2)
        for step in range(made.steps):
            if made.kind != "explore":
                direction = maze.direction(sim.get_xy(), sim.cur_goal_xy)
            elif step % _EXPLORE_STEPS == 0:
                direction = _unit(rng.standard_normal(2))
            action = actor(np.concatenate([observation[2:], direction]))
            action = np.clip(action + made.noise * rng.standard_normal(len(action)), -1.0, 1.0)
            observations.append(observation.astype(np.float32))
            actions.append(action.astype(np.float32))
            observation, _, _, _, info = sim.step(action)
            if made.kind == "navigate" and info["success"]:
                sim.set_goal(maze.draw(maze.junctions, rng))
    return np.stack(observations), np.stack(actions)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / (np.linalg.norm(vector) + 1e-6)


class _Cells:
    """The free cells of a maze and the shortest ways between them."""

    def __init__(self, sim: Any) -> None:
        self._sim, self._open = sim, np.asarray(sim.maze_map) == 0
        self.free: list[Cell] = [(int(i), int(j)) for i, j in np.argwhere(self._open)]
        self.junctions = [cell for cell in self.free if not self._in_corridor(cell)]
        self._steps: dict[Cell, np.ndarray] = {}

    @staticmethod
    def draw(cells: list[Cell], rng: np.random.Generator) -> Cell:
        return cells[int(rng.integers(len(cells)))]

    def at_distance(self, start: Cell, steps: int) -> list[Cell]:
        """Free cells whose shortest way from `start` has so many steps."""
        found = np.argwhere(self._steps_to(start) == steps)
        return [(int(i), int(j)) for i, j in found]

    def direction(self, xy: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Unit vector from a position to the middle of the next cell on the way to a goal."""
        here, steps = self._sim.xy_to_ij(xy), self._steps_to(self._sim.xy_to_ij(goal))
        best = here
        for cell in self._beside(here):
            if steps[cell] < steps[best]:
                best = cell
        return _unit(np.asarray(self._sim.ij_to_xy(best)) - xy)

    def _steps_to(self, goal: Cell) -> np.ndarray:
        """Steps of the shortest way to `goal` from every cell, -1 where there is none."""
        if goal not in self._steps:
            steps = np.full(self._open.shape, -1)
            steps[goal] = 0
            frontier = deque([goal])
            while frontier:
                cell = frontier.popleft()
                for beside in self._beside(cell):
                    if steps[beside] < 0:
                        steps[beside] = steps[cell] + 1
                        frontier.append(beside)
            self._steps[goal] = steps
        return self._steps[goal]

    def _beside(self, cell: Cell) -> list[Cell]:
        around = ((cell[0] + i, cell[1] + j) for i, j in _NEIGHBOURS)
        return [beside for beside in around if self._open[beside]]  # walls all around the border

    def _in_corridor(self, cell: Cell) -> bool:
        i, j = cell
        across, along = self._open[[i - 1, i + 1], j], self._open[i, [j - 1, j + 1]]
        return bool((across.all() and not along.any()) or (along.all() and not across.any()))


def _actor(domain: str) -> Actor:
    if domain == "pointmaze":
        return lambda seen: seen[-2:]
    file = resources.files("diffplan.envs.makers") / "ant-direction.npz"
    with resources.as_file(file) as path, np.load(path) as weights:
        layers = [
            (weights[f"{layer}.weight"].T, weights[f"{layer}.bias"])
            for layer in ("latent_pi.0", "latent_pi.2", "mu")
        ]

    def act(seen: np.ndarray) -> np.ndarray:
        hidden = seen.astype(np.float32)
        for weight, bias in layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        return np.tanh(hidden @ layers[-1][0] + layers[-1][1])

    return act
