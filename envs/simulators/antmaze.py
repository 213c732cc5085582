"""antmaze in D4RL's own frame and with D4RL's ant, in plain MuJoCo.

Facts from d4rl/locomotion/{maze_env,ant,goal_reaching_env}.py and assets/ant.xml (D4RL,
Apache-2.0). The start cell is the origin, cells are 4 wide, x runs along the columns of a layout
and y DOWN its rows. D4RL's ant is not the one of today's AntMaze environments: its step is
0.1 s instead of 0.05 s, its motors are five times weaker, and its contacts are softer.
"""

from __future__ import annotations

import contextlib
import functools
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

with contextlib.suppress(ModuleNotFoundError):  # optional: the constructor says what to install
    import mujoco

# "#" is a wall, "R" the start, "G" the cell of the goal.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "umaze": (
        "#####",
        "#R..#",
        "###.#",
        "#G..#",
        "#####",
    ),
    "medium": (
        "########",
        "#R.##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "large": (
        "############",
        "#R...#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
}
SCALE = 4.0
SUCCESS_DISTANCE = 0.5

_POSITIONS, _VELOCITIES = 15, 14
_FRAME_SKIP = 5
_START_NOISE = 0.1
_GOAL_NOISE = (1.0, 0.5)  # two draws, U(0, 1) and U(0, 0.5), are added to the goal cell's middle


def cell_position(maze: str, tile: str) -> np.ndarray:
    """Position (x, y) of the middle of the cell marked `tile`, "R" or "G"."""
    row, column = _find(maze, tile)
    start_row, start_column = _find(maze, "R")
    return SCALE * np.array([column - start_column, row - start_row], np.float64)


def corner_positions(maze: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions (x, y) of the middles of the first and the last cell of a layout."""
    lines = LAYOUTS[maze]
    row, column = _find(maze, "R")
    first = SCALE * np.array([-column, -row], np.float64)
    return first, first + SCALE * np.array([len(lines[0]) - 1, len(lines) - 1])


class AntMaze(gym.Env[Any, np.ndarray]):
    """D4RL's antmaze v2 as a goal-dict environment.

    Observation: {"observation": [29], the columns of the files: 15 positions, of which the first
    two are x and y, and 14 velocities; "achieved_goal": [2] x, y; "desired_goal": [2]}.
    Action: [8] in [-1, 1]. The reward is 1 and the episode terminates within 0.5 of the goal.
    `gymnasium.make` cuts episodes after D4RL's 700 (umaze) or 1,000 steps.

    As in D4RL: layouts and frame, the ant's bodies, motors, contacts and time step, the start
    (all positions +-0.1, all velocities 0.1 N(0, 1)), a new goal at every reset near the middle of
    the goal cell. Not as in D4RL: the MuJoCo version and the random stream, and the goal is part
    of the observation, which D4RL's evaluation hides. Not checked against D4RL's files.
    Raises DiffplanError where MuJoCo is not installed.
    """

    def __init__(self, maze: str = "umaze") -> None:
        if maze not in LAYOUTS:
            raise DiffplanError(f"unknown maze '{maze}'; antmaze has {', '.join(LAYOUTS)}")
        require_simulator("mujoco", "antmaze")
        self.maze = maze
        self.model = mujoco.MjModel.from_xml_string(_model_xml(maze))
        self.data = mujoco.MjData(self.model)
        self.goal = cell_position(maze, "G")
        width = _POSITIONS + _VELOCITIES
        point = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (width,), np.float64),
                "achieved_goal": point,
                "desired_goal": point,
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)

    def set_state(self, state: np.ndarray) -> None:
        """Put the ant at state [29], the columns of the files."""
        self.data.qpos[:], self.data.qvel[:] = state[:_POSITIONS], state[_POSITIONS:]
        mujoco.mj_forward(self.model, self.data)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        # D4RL adds two draws
        noise = sum(self.np_random.uniform(0.0, width, 2) for width in _GOAL_NOISE)
        self.goal = cell_position(self.maze, "G") + noise
        mujoco.mj_resetData(self.model, self.data)
        positions = self.data.qpos + self.np_random.uniform(-_START_NOISE, _START_NOISE, _POSITIONS)
        velocities = _START_NOISE * self.np_random.standard_normal(_VELOCITIES)
        self.set_state(np.concatenate([positions, velocities]))
        return self._observation(), {"success": False}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, nstep=_FRAME_SKIP)
        # distance of the torso, in the plane
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= SUCCESS_DISTANCE)
        return self._observation(), float(reached), reached, False, {"success": reached}

    def _observation(self) -> dict[str, np.ndarray]:
        return {
            "observation": np.concatenate([self.data.qpos, self.data.qvel]),
            "achieved_goal": self.data.qpos[:2].copy(),
            "desired_goal": self.goal.copy(),
        }


def _find(maze: str, tile: str) -> tuple[int, int]:
    lines = LAYOUTS[maze]
    return next((row, line.index(tile)) for row, line in enumerate(lines) if tile in line)


@functools.cache
def _model_xml(maze: str) -> str:
    """Gymnasium's ant, which has D4RL's bodies, with D4RL's settings and walls."""
    from gymnasium.envs.mujoco import ant_v4

    folder = Path(ant_v4.__file__).parent / "assets"
    root = ET.parse(folder / "ant.xml").getroot()
    _element(root, "option").set("timestep", "0.02")
    _element(root, "default/geom").attrib |= {"solref": ".02 1", "solimp": ".8 .8 .01"}
    for motor in root.iterfind("actuator/motor"):
        motor.set("gear", "30")  # D4RL: gear 1, and actions in [-1, 1] are scaled to [-30, 30]
    world = _element(root, "worldbody")
    start_row, start_column = _find(maze, "R")
    for row, line in enumerate(LAYOUTS[maze]):
        for column, tile in enumerate(line):
            if tile == "#":
                x, y = SCALE * (column - start_column), SCALE * (row - start_row)
                # D4RL's walls are as high as half a cell; MuJoCo takes half sizes
                half, height = SCALE / 2, SCALE / 4
                ET.SubElement(
                    world,
                    "geom",
                    type="box",
                    pos=f"{x} {y} {height}",
                    size=f"{half} {half} {height}",
                    contype="1",
                    conaffinity="1",
                )
    return ET.tostring(root, encoding="unicode")


def _element(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    assert found is not None, f"Gymnasium's ant.xml has no {path}"
    return found
