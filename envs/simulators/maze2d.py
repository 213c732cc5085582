"""maze2d in D4RL's own frame, in plain MuJoCo, so that its files and reference scores hold.

Facts from d4rl/pointmaze/maze_model.py (D4RL, Apache-2.0). Observations are the four columns of
the files: x, y and their velocities. Cell (i, j), line i and character j of a layout below, is
the point x = i, y = j; goals and starts are drawn around such points. The walls stand 0.2 aside:
positions count from (1.2, 1.2), walls from (1, 1), so the middle of cell (i, j) is
(i - 0.2, j - 0.2).
"""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

with contextlib.suppress(ModuleNotFoundError):  # optional: the constructor says what to install
    import mujoco

GridPoint = tuple[int, int]

# "#" is a wall, "G" the one goal of evaluation.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "open": (
        "#######",
        "#OOOOO#",
        "#OOGOO#",
        "#OOOOO#",
        "#######",
    ),
    "umaze": (
        "#####",
        "#GOO#",
        "###O#",
        "#OOO#",
        "#####",
    ),
    "medium": (
        "########",
        "#OO##OO#",
        "#OO#OOO#",
        "##OOO###",
        "#OO#OOO#",
        "#O#OO#O#",
        "#OOO#OG#",
        "########",
    ),
    "large": (
        "############",
        "#OOOO#OOOOO#",
        "#O##O#O#O#O#",
        "#OOOOOO#OOO#",
        "#O####O###O#",
        "#OO#O#OOOOO#",
        "##O#O#O#O###",
        "#OO#OOO#OGO#",
        "############",
    ),
}
SUCCESS_DISTANCE = 0.5
WALL_OFFSET = -0.2
"""From the point (i, j) to the middle of cell (i, j), in x and in y."""

_LARGEST_SPEED = 5.0
_SPREAD = 0.1  # half the side of the square in which a start or a random goal is drawn
_START = 1.2


def maze_layout(maze: str) -> tuple[str, ...]:
    """Lines of open, umaze, medium or large. Raises DiffplanError for another name."""
    if maze not in LAYOUTS:
        raise DiffplanError(f"unknown maze '{maze}'; maze2d has {', '.join(LAYOUTS)}")
    return LAYOUTS[maze]


def free_points(maze: str) -> list[GridPoint]:
    """Free cells (i, j) as D4RL lists them: sorted, the goal last."""
    lines = maze_layout(maze)
    cells = [(i, j) for i, line in enumerate(lines) for j, tile in enumerate(line) if tile == "O"]
    return [*cells, goal_point(maze)]


def goal_point(maze: str) -> GridPoint:
    """The cell (i, j) of the goal of evaluation."""
    lines = maze_layout(maze)
    return next((i, line.index("G")) for i, line in enumerate(lines) if "G" in line)


def reward_at(xy: np.ndarray, goal: np.ndarray, dense: bool) -> np.ndarray:
    """Rewards [...] for being at xy [..., 2]: 1 within 0.5 of the goal, or exp(-distance)."""
    distance = np.linalg.norm(np.asarray(xy, np.float64) - goal, axis=-1)
    return np.exp(-distance) if dense else (distance <= SUCCESS_DISTANCE).astype(np.float64)


class Maze2D(gym.Env[Any, np.ndarray]):
    """A ball of radius 0.1 pushed through a maze; D4RL's maze2d as a goal-dict environment.

    Observation: {"observation": [4] x, y, vx, vy; "achieved_goal": [2] x, y; "desired_goal": [2]}.
    Action: [2] force, in [-1, 1]. Reward: `reward_at` of the position after the step. Episodes
    never terminate; `gymnasium.make` cuts them at D4RL's time limits.

    As in D4RL: layouts, masses, gear 100, damping 1, step 0.01 s, speeds clipped to 5 before
    each step, starts (a random free cell, +-0.1, speed 0.1 N(0, 1)) and the fixed goal. Not as in
    D4RL: the MuJoCo version and the random stream, and the goal is part of the observation.
    Checked: D4RL's reference maxima (checks/maze2d_controllers.py) and the largest speed in its
    files, 5.2262554; not the files themselves.
    `info["success"]` says whether the ball is within 0.5 of the goal.
    Raises DiffplanError where MuJoCo is not installed.
    """

    def __init__(self, maze: str = "umaze", dense: bool = False) -> None:
        require_simulator("mujoco", "maze2d")
        self.maze = maze
        self.dense = dense
        self.goal = np.array(goal_point(maze), np.float64)
        self.model = mujoco.MjModel.from_xml_string(_model_xml(maze))
        self.data = mujoco.MjData(self.model)
        box = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        point = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict(
            {"observation": box, "achieved_goal": point, "desired_goal": point}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        # in D4RL's order, which decides what a random index means
        self._points = np.array(free_points(maze), np.float64)

    def random_point(self) -> np.ndarray:
        """A point [2] within 0.1 of a random free cell, where D4RL puts starts and goals."""
        index = self.np_random.integers(len(self._points))
        return self._points[index] + self.np_random.uniform(-_SPREAD, _SPREAD, 2)

    def set_state(self, state: np.ndarray) -> None:
        """Put the ball at state [4]."""
        self.data.qpos[:], self.data.qvel[:] = state[:2], state[2:]
        mujoco.mj_forward(self.model, self.data)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        position = self.random_point()
        self.set_state(np.concatenate([position, 0.1 * self.np_random.standard_normal(2)]))
        return self._observation(), {"success": self._success()}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        # before the step, so that files hold speeds beyond the limit
        self.data.qvel[:] = np.clip(self.data.qvel, -_LARGEST_SPEED, _LARGEST_SPEED)
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data)
        reward = float(reward_at(self.data.qpos, self.goal, self.dense))
        return self._observation(), reward, False, False, {"success": self._success()}

    def _success(self) -> bool:
        return bool(reward_at(self.data.qpos, self.goal, dense=False))

    def _observation(self) -> dict[str, np.ndarray]:
        return {
            "observation": np.concatenate([self.data.qpos, self.data.qvel]),
            "achieved_goal": self.data.qpos.copy(),
            "desired_goal": self.goal.copy(),
        }


def _model_xml(maze: str) -> str:
    walls = "\n".join(
        # MuJoCo takes half sizes
        f'<geom type="box" pos="{i + 1} {j + 1} 0" size="0.5 0.5 0.2"/>'
        for i, line in enumerate(maze_layout(maze))
        for j, tile in enumerate(line)
        if tile == "#"
    )
    axes = (("x", "1 0 0"), ("y", "0 1 0"))
    joints = "".join(f'<joint name="{name}" type="slide" axis="{axis}"/>' for name, axis in axes)
    motors = "".join(
        f'<motor joint="{name}" gear="100" ctrllimited="true" ctrlrange="-1 1"/>'
        for name, _ in axes
    )
    return f"""
    <mujoco model="maze2d">
      <compiler inertiafromgeom="true" angle="radian"/>
      <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
      <default>
        <joint damping="1" limited="false"/>
        <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1"
          contype="2" conaffinity="1"/>
      </default>
      <worldbody>
        {walls}
        <body pos="{_START} {_START} 0">
          <geom type="sphere" size="0.1" contype="1"/>
          {joints}
        </body>
      </worldbody>
      <actuator>{motors}</actuator>
    </mujoco>"""
