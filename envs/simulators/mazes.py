"""Grid mazes: geometry, grid paths and the waypoints laid along them."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from diffplan.envs.simulators import antmaze, maze2d, ogbench
from diffplan.envs.simulators.environments import env_from_spec
from diffplan.errors import DiffplanError

PathRule = Literal["depth-first", "shortest"]
Cell = tuple[int, int]

# Right, left, up, down as (row, column). The published data depend on this order: the
# depth-first search takes the LAST neighbour first, so it prefers to go down.
_NEIGHBOURS = ((0, 1), (0, -1), (-1, 0), (1, 0))
_WALL = 1
_ENTRIES = {0, 1, "r", "g", "c"}
_WAYPOINT_SPREAD = 0.2


@dataclass(frozen=True)
class Maze:
    """A maze of square cells of side `scale` around `middle` (x, y), x to the right, y up.

    rows: the map, row 0 at the top; 1 is a wall, everything else is free ("r" start, "g" goal,
    "c" both; without such letters every free cell is both).
    """

    rows: tuple[tuple[int | str, ...], ...]
    scale: float = 1.0
    middle: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def from_map(
        maze_map: Sequence[Sequence[int | str]],
        scale: float = 1.0,
        middle: tuple[float, float] = (0.0, 0.0),
    ) -> Maze:
        """Check a map and wrap it.

        Raises DiffplanError unless it is a rectangle with a closed border whose free cells hang
        together and leave at least two cells to choose goals from.
        """
        rows = tuple(tuple(row) for row in maze_map)
        if len(rows) < 3 or len({len(row) for row in rows}) != 1 or len(rows[0]) < 3:
            raise DiffplanError("maze_map must be a rectangle of at least 3 by 3 entries")
        unknown = {entry for row in rows for entry in row} - _ENTRIES
        if unknown:
            raise DiffplanError(
                f"maze_map holds {sorted(map(repr, unknown))[0]}; allowed are 0, 1, 'r', 'g', 'c'"
            )
        # a ball would leave the maze
        border = (*rows[0], *rows[-1], *(row[0] for row in rows), *(row[-1] for row in rows))
        if any(entry != _WALL for entry in border):
            raise DiffplanError("maze_map must have walls (1) all around its border")
        maze = Maze(rows, scale, middle)
        free = maze.free_cells()
        lettered = {entry for row in rows for entry in row} - {0, 1}
        # without letters any free cell may be a goal
        goals = [c for c in free if not lettered & {"g", "c"} or maze[c] in ("g", "c")]
        if len(goals) < 2:
            raise DiffplanError(f"maze_map has {len(goals)} goal cells, at least 2 are needed")
        # a goal out of reach would never end its episode
        reached = maze.reachable(free[0])
        if len(reached) < len(free):
            cell = next(c for c in free if c not in reached)
            raise DiffplanError(f"maze_map: cell {cell} cannot be reached from cell {free[0]}")
        return maze

    def __getitem__(self, cell: Cell) -> int | str:
        return self.rows[cell[0]][cell[1]]

    def is_free(self, cell: Cell) -> bool:
        row, column = cell
        inside = 0 <= row < len(self.rows) and 0 <= column < len(self.rows[0])
        return inside and self.rows[row][column] != _WALL

    def free_cells(self) -> list[Cell]:
        cells = ((i, j) for i in range(len(self.rows)) for j in range(len(self.rows[0])))
        return [cell for cell in cells if self.is_free(cell)]

    def neighbours(self, cell: Cell) -> list[Cell]:
        """Free cells beside `cell`, in the order right, left, up, down."""
        steps = ((cell[0] + i, cell[1] + j) for i, j in _NEIGHBOURS)
        return [step for step in steps if self.is_free(step)]

    def reachable(self, start: Cell) -> set[Cell]:
        seen, frontier = {start}, [start]
        while frontier:
            fresh = [step for step in self.neighbours(frontier.pop()) if step not in seen]
            seen.update(fresh)
            frontier.extend(fresh)
        return seen

    def centre(self, cell: Cell) -> tuple[float, float]:
        """Position (x, y) of the centre of a cell."""
        height, width = len(self.rows), len(self.rows[0])
        x, y = cell[1] + 0.5 - width / 2, height / 2 - cell[0] - 0.5
        return self.middle[0] + x * self.scale, self.middle[1] + y * self.scale

    def cell(self, xy: Sequence[float] | np.ndarray) -> Cell:
        """The cell (row, column) that holds the position (x, y)."""
        height, width = len(self.rows), len(self.rows[0])
        x, y = (xy[0] - self.middle[0]) / self.scale, (xy[1] - self.middle[1]) / self.scale
        return int(np.floor(height / 2 - y)), int(np.floor(x + width / 2))


def grid_path(maze: Maze, start: Cell, goal: Cell, rule: PathRule) -> list[Cell]:
    """Cells from `start` to `goal`, both included, as the controllers walk them.

    "shortest" is a breadth-first search. "depth-first" is the search behind the published
    PointMaze data: a stack, cells marked when they are pushed, neighbours pushed in the order
    right, left, up, down; its paths make detours wherever the maze has loops.
    Raises DiffplanError where no path exists.
    """
    if not (maze.is_free(start) and maze.is_free(goal)):
        raise DiffplanError(f"no path from cell {start} to cell {goal}: one of them is a wall")
    # marked when they are found and not when they are visited: the published paths depend on it
    parent: dict[Cell, Cell] = {start: start}
    frontier = deque([start])
    while frontier:
        cell = frontier.pop() if rule == "depth-first" else frontier.popleft()
        if cell == goal:
            break
        for step in maze.neighbours(cell):
            if step not in parent:
                parent[step] = cell
                frontier.append(step)
    if goal not in parent:
        raise DiffplanError(f"no path from cell {start} to cell {goal}")
    path = [goal]
    while path[-1] != start:
        path.append(parent[path[-1]])
    return path[::-1]


def lay_waypoints(
    maze: Maze, xy: np.ndarray, goal: np.ndarray, rule: PathRule, rng: np.random.Generator
) -> np.ndarray:
    """Waypoints [L, 2] from the position `xy` to the goal.

    Centres of the cells between, each less U(0, 0.2) in x and y, and the goal itself at the end.
    The first of them keeps its centre, as in the published data.
    """
    path = grid_path(maze, maze.cell(xy), maze.cell(goal), rule)
    between = np.array([maze.centre(cell) for cell in path[1:-1]], np.float64).reshape(-1, 2)
    # moved one way only, as in the published controller
    between[1:] -= rng.uniform(0.0, _WAYPOINT_SPREAD, size=between[1:].shape) * maze.scale
    return np.concatenate([between, np.asarray(goal, np.float64)[None]])


def maze_of(env_id: str | None, env_kwargs: dict[str, Any]) -> Maze | None:
    """The maze of a PointMaze, AntMaze, D4RL or OGBench maze environment, None for any other."""
    if env_id == ogbench.ENV_ID:
        return _ogbench_maze(env_kwargs["env_name"])
    if env_id is None or env_id.startswith("diffplan/"):
        return None if env_id is None else _d4rl_maze(env_id)
    if not env_id.startswith(("PointMaze_", "AntMaze_")):
        return None
    maze_map = env_kwargs.get("maze_map")
    if maze_map is None:
        # without gymnasium-robotics there is no map to read
        if env_id not in gym.registry:
            return None
        maze_map = env_from_spec(gym.spec(env_id))[1]["maze_map"]
    return Maze.from_map(maze_map, scale=1.0 if env_id.startswith("PointMaze_") else 4.0)


@functools.cache
def _ogbench_maze(env_name: str) -> Maze | None:
    try:
        sim = ogbench.make_simulator(env_name)
    except DiffplanError:  # not installed: no map to read
        return None
    if not hasattr(sim, "maze_map"):
        return None
    with contextlib.closing(sim):
        walls = sim.maze_map[::-1]  # y grows along its rows
        corners = [np.asarray(sim.ij_to_xy(ij)) for ij in ((0, 0), (1, 1), walls.shape)]
    scale = float(corners[1][0] - corners[0][0])
    middle = (corners[0] + corners[2] - scale) / 2
    # a teleport's cell may be cut off from the others
    return Maze(tuple(map(tuple, walls.tolist())), scale, (float(middle[0]), float(middle[1])))


def _d4rl_maze(env_id: str) -> Maze | None:
    """D4RL's layouts as they lie in the plane: its coordinates do not run along its lines."""
    maze = gym.spec(env_id).kwargs.get("maze") if env_id in gym.registry else None
    if maze is None:
        return None
    if env_id.startswith("diffplan/antmaze-"):
        lines = antmaze.LAYOUTS[maze]
        walls = [[int(tile == "#") for tile in line] for line in lines[::-1]]  # y runs down
        corners = antmaze.corner_positions(maze)
        middle = tuple(((corners[0] + corners[1]) / 2).tolist())
        return Maze.from_map(walls, antmaze.SCALE, middle)
    lines = maze2d.LAYOUTS[maze]
    height, width = len(lines[0]), len(lines)  # x runs along the lines' number, y along a line
    walls = [[int(line[j] == "#") for line in lines] for j in reversed(range(height))]
    offset = maze2d.WALL_OFFSET
    middle = ((width - 1) / 2 + offset, (height - 1) / 2 + offset)
    return Maze.from_map(walls, 1.0, middle)
