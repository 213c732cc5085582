"""Where plans for two goals at once end: between them, and through no wall?

    python -m diffplan.scripts.checks.composed RUN [RUN ...]

RUN: of a point maze. Starts are those of episodes; both goals are centres of cells at most two from
the start's. Distances are in cells' sides.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from diffplan.agents import PlannerAgent, load_agent
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.mazes import Maze, grid_path, maze_of
from diffplan.errors import DiffplanError
from diffplan.planning import Aim
from diffplan.scripts.checks import main
from diffplan.scripts.report.results import aligned

_NEAR = 2  # cells from the start
_TITLES = ["data", "plans", "n", "to one goal", "to the other", "to their middle", "in walls"]


@dataclass(frozen=True)
class TwoGoals:
    """Plan for two goals at once."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs of point mazes."""
    starts: int = 100
    """Starts, each with two goals of its own."""
    seed: int = 1000
    """Of the first start."""

    def run(self) -> None:
        """Print the table."""
        rows = []
        for run in self.runs:
            agent = load_agent(run, engine="eager")
            info = agent.info.public
            maze = maze_of(info.env_id, info.env_kwargs)
            if maze is None:
                raise DiffplanError(f"{run}: {info.env_id} is no maze; give a run of a point maze")
            rows += self._table(agent, maze)
        print(aligned([_TITLES, *rows]))

    def _table(self, agent: PlannerAgent, maze: Maze) -> list[list[str]]:
        env, rng = evaluation_env_factory(agent.info)(), np.random.default_rng(self.seed)
        free = maze.free_cells()
        asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for seed in range(self.seed, self.seed + self.starts):
            state = env.reset(seed=seed)[0]["observation"]
            cell = maze.cell(state[:2])
            near = [c for c in free if 1 < len(grid_path(maze, cell, c, "shortest")) <= _NEAR + 1]
            first, second = rng.choice(len(near), 2, replace=len(near) < 2)
            asked.append((state, *(np.array(maze.centre(near[i])) for i in (first, second))))
        env.close()
        states, one, other = map(np.array, zip(*asked, strict=True))
        middle = (one + other) / 2
        plans: dict[str, list[np.ndarray]] = {
            "for one": [self._end(agent, states, one)],
            "for both, weights of a half": [],
            "for both, weights of one": [],
            "for the middle": [self._end(agent, states, middle)],
        }
        for row in range(self.starts):
            for name, weight in (("a half", 0.5), ("one", 1.0)):
                aims = (Aim(weight=weight), Aim(tuple(other[row]), weight=weight))
                found = self._end(agent.composed(*aims), states[row : row + 1], one[row : row + 1])
                plans[f"for both, weights of {name}"].append(found)
        lines = []
        for name, parts in plans.items():
            path = np.concatenate(parts)
            ends = [path[:, -1] - goal for goal in (one, other, middle)]
            walls = [any(not maze.is_free(maze.cell(at)) for at in each) for each in path]
            far = [f"{np.linalg.norm(end, axis=1).mean() / maze.scale:.2f}" for end in ends]
            lines.append([agent.info.id, name, str(self.starts), *far, f"{np.mean(walls):.0%}"])
        return lines

    def _end(self, agent: PlannerAgent, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Places [n, H+1, 2] of plans from states to goals."""
        seen: dict[str, Any] = {
            "observation": states,
            "desired_goal": goals,
            "achieved_goal": states[:, :2],
        }
        found: np.ndarray = agent.predict(seen)[1].plan.states.numpy()[..., :2]
        return found


if __name__ == "__main__":
    sys.exit(main(TwoGoals, "diffplan.scripts.checks.composed", sys.argv[1:]))
