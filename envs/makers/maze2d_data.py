"""maze2d data made by D4RL's procedure, as files in D4RL's layout.

One ball is driven from goal to goal for all the steps by the waypoint controller with noise:
action = clip(10 (waypoint - xy) - velocity + 0.5 N(0, 1), -1, 1). A leg ends (timeouts) at the
step whose observation is within 0.1 of the goal's cell, or when it has lasted for a time limit;
then a random goal is drawn and the ball goes on from where it is. Facts from
scripts/generation/{generate,relabel}_maze2d_datasets.py (D4RL, Apache-2.0), whose file repeats
the observation after the end of a leg; here the trajectory has no such step.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffplan.envs.formats.d4rl_write import already_made, write_d4rl
from diffplan.envs.formats.minari_write import software_versions
from diffplan.envs.makers.maze2d_controllers import Grid, steer
from diffplan.envs.simulators.maze2d import LAYOUTS, Maze2D, goal_point, reward_at
from diffplan.envs.simulators.registration import MAZE2D_LIMITS, MAZE2D_VERSIONS
from diffplan.errors import DiffplanError
from diffplan.limits import require_disk, require_memory

NOISE_STD = 0.5
_STEP_BYTES = 57  # of arrays, before they are written and compressed
_RECIPE = ("name", "steps", "seed", "mujoco")


@dataclass(frozen=True)
class Maze2DRun:
    """N steps of the controller.

    states: [N, 4] float64, x, y and their velocities BEFORE each step. actions: [N, 2] float32.
    goals: [N, 2] float64, the goal in force. ends: [N] bool, the last step of a leg.
    """

    states: np.ndarray
    actions: np.ndarray
    goals: np.ndarray
    ends: np.ndarray


def run_maze2d(maze: str, steps: int, seed: int, progress: bool = True) -> Maze2DRun:
    """Drive the noisy controller for `steps` steps through open, umaze, medium or large.

    The same arguments give the same arrays on one MuJoCo version, and a shorter run is the
    beginning of a longer one.
    """
    env = Maze2D(maze)
    grid, limit = Grid(maze), MAZE2D_LIMITS[maze]
    # two streams: how often the controller plans must not shift the noise on its actions
    noise_rng, waypoint_rng = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    noise = NOISE_STD * noise_rng.standard_normal((steps, 2))
    states, goals = np.empty((steps, 4)), np.empty((steps, 2))
    actions, ends = np.empty((steps, 2), np.float32), np.zeros(steps, np.bool_)

    observation, _ = env.reset(seed=seed)
    state, goal = observation["observation"], env.random_point()
    route = grid.route(state[:2], grid.cell_of(goal), waypoint_rng)
    age = 0
    bar = tqdm(total=steps, desc=f"maze2d-{maze}", unit="step", disable=not progress)
    with bar:
        for t in range(steps):
            action, route, arrived = steer(route, state)
            states[t], goals[t] = state, goal
            actions[t] = np.clip(action + noise[t], -1.0, 1.0)
            # judged before the step, as D4RL's script does
            ends[t] = arrived or age >= limit
            state = env.step(actions[t])[0]["observation"]
            age += 1
            if ends[t]:
                goal, age = env.random_point(), 0
                target = grid.cell_of(goal)
                if target != route.target:  # D4RL plans anew for another cell only
                    route = grid.route(state[:2], target, waypoint_rng)
            if t % 1000 == 999:
                bar.update(1000)
        bar.update(steps % 1000)
    return Maze2DRun(states, actions, goals, ends)


def make_maze2d(
    name: str,
    steps: int,
    seed: int,
    path: Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a dataset to `path`, in the layout of D4RL's maze2d files, and return the path.

    name: maze2d-open, -umaze, -medium or -large, each also with -dense at its end.
    overwrite: replace a file that was made otherwise.

    Arrays of N rows: observations [N, 4], actions [N, 2], rewards [N] (of the observation in the
    same row, for the one goal of evaluation), terminals (all false), timeouts (ends of legs),
    infos/{goal,qpos,qvel} [N, 2]; attributes say how it was made. A file of the same name, steps
    and seed is kept as it is; an interrupted call leaves nothing behind.
    Raises DiffplanError for unknown names and for a file made otherwise.
    """
    found = re.fullmatch(rf"maze2d-({'|'.join(LAYOUTS)})(-dense)?", name)
    if found is None:
        raise DiffplanError(
            f"unknown maze2d dataset '{name}'; known: maze2d-{{{','.join(LAYOUTS)}}}[-dense]"
        )
    if steps < 2 or seed < 0:
        raise DiffplanError(f"steps {steps} and seed {seed}: expected steps >= 2 and seed >= 0")
    maze, dense = found[1], found[2] is not None
    # neither Minari nor Gymnasium has a part in these numbers
    versions = {key: software_versions()[key] for key in ("mujoco", "numpy")}
    attributes = {
        "name": f"{name}-v{MAZE2D_VERSIONS[maze]}",
        "made_by": "diffplan",
        "policy": "waypoint controller with noise, D4RL's procedure",
        "steps": steps,
        "seed": seed,
        "noise_std": NOISE_STD,
        "mujoco": versions["mujoco"],
        "versions": json.dumps(versions),
    }
    if not overwrite and already_made(path, attributes, _RECIPE):
        return path
    require_memory(_STEP_BYTES * steps, f"{steps:,} steps", "make fewer")
    require_disk(path.parent, _STEP_BYTES / 4 * steps, f"{steps:,} steps", "make fewer")
    run = run_maze2d(maze, steps, seed, progress)
    arrays = {
        "observations": run.states.astype(np.float32),
        "actions": run.actions,
        "rewards": reward_at(run.states[:, :2], np.array(goal_point(maze)), dense),
        "terminals": np.zeros(steps, np.bool_),
        "timeouts": run.ends,
        "infos/goal": run.goals,
        "infos/qpos": run.states[:, :2],
        "infos/qvel": run.states[:, 2:],
    }
    write_d4rl(path, arrays, attributes)
    return path
