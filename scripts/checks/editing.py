"""How well edited plans meet a new goal, and how much of the old plan they keep.

    python -m diffplan.scripts.checks.editing RUN [--source RUN]

RUN: of a point maze. Edited are held-out windows of its data, each taken for a plan to where it
ends; the new goal is the centre of a cell beside the start's. `peculiar`: a window differs from
the agent's own plan for the old goal; how much of that (regression through 0) is left between the
two when both are edited. Distances are in cells' sides.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from diffplan.agents import PlannerAgent, load_agent
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.forward import q_sample
from diffplan.diffusion.inversion import METHODS
from diffplan.engines.decision import PlanStep
from diffplan.envs.datasets import training_data
from diffplan.envs.simulators.mazes import Maze, grid_path, maze_of
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint, read_header
from diffplan.planning.chains import Chain
from diffplan.planning.editing import below, editing, encode
from diffplan.planning.stages import guide, propose
from diffplan.scripts.checks import main
from diffplan.scripts.report.intervals import estimate_mean
from diffplan.scripts.report.results import aligned, interval

_TITLES = ["plan", "n", "to the new goal", "to the old plan", "peculiar", "in walls"]
_LONG = 0.5  # of a cell's side: what windows move at least, and goals lie apart
_SKIPS = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Editing:
    """Edit recorded windows for another goal, by every way."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Of a point maze."""
    source: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Another run of the same settings, through which plans are taken apart, too."""
    windows: int = 100
    """Windows that are edited."""
    seed: int = 1000
    """Of windows, goals and noise."""

    def run(self) -> None:
        """Print the tables."""
        agent = load_agent(self.run_folder, engine="eager", seed=self.seed)
        source = None if self.source is None else load_agent(self.source, engine="eager")
        maze = maze_of(agent.info.env_id, agent.info.env_kwargs)
        if maze is None or not agent.layout.goal_columns or agent.model.spec.planned:
            raise DiffplanError(
                f"{self.run_folder}: expected a run of a point maze whose plans hold whole states"
            )
        states, new = self._windows(agent, maze)
        old = states[:, -1, :2]
        subject = _Subject(agent, states, old, new)
        typical = _Subject(agent, agent.plan(_seen(states[:, 0], old)).states, old, new)
        lines, std = [_TITLES], agent.model.states.std.numpy()
        apart = (states - typical.states) / std
        both = zip(subject.ways(source, self.seed), typical.ways(source, self.seed), strict=True)
        for (way, found), (_, other) in both:
            left = ((found - other) / std * apart).sum() / np.square(apart).sum()
            lines.append([way, str(len(states)), *_judged(maze, found, states, new, left)])
        print("nothing changed, off by at most: " + subject.unchanged())
        print("kept noise, standard deviation: " + subject.kept(self.seed))
        print(aligned(lines))

    def _windows(self, agent: PlannerAgent, maze: Maze) -> tuple[np.ndarray, np.ndarray]:
        """Held-out windows [n, H+1, D] that move, and other goals [n, 2] beside their starts."""
        header = read_header(find_checkpoint(self.run_folder, "last"))
        episodes = training_data(header.info, header.fingerprint)
        if isinstance(episodes, str):
            raise DiffplanError(f"edited are held-out windows, but {episodes}")
        sampler = WindowSampler(episodes, header.config, seed=header.seed)
        drawn = sampler.sample(
            20 * self.windows, torch.Generator().manual_seed(self.seed), "held-out"
        )
        states = drawn.states[drawn.mask.bool().all(1)].numpy()
        rng = np.random.default_rng(self.seed)
        kept, goals = [], []
        for window in states:
            cell, end = maze.cell(window[0, :2]), window[-1, :2]
            beside = [
                c for c in maze.free_cells() if len(grid_path(maze, cell, c, "shortest")) == 2
            ]
            goal = np.array(maze.centre(beside[rng.integers(len(beside))]))
            far = _LONG * maze.scale
            if min(np.linalg.norm(end - window[0, :2]), np.linalg.norm(end - goal)) > far:
                kept.append(window)
                goals.append(goal)
        return np.array(kept[: self.windows]), np.array(goals[: self.windows])


class _Subject:
    """Some plans [n, H+1, D] for old goals [n, 2], to be edited for new ones."""

    def __init__(
        self, agent: PlannerAgent, states: np.ndarray, old: np.ndarray, new: np.ndarray
    ) -> None:
        self.agent, self.states, self.old, self.new = agent, states, old, new

    def seen(self, goals: np.ndarray) -> dict[str, np.ndarray]:
        return _seen(self.states[:, 0], goals)

    def ways(self, source: PlannerAgent | None, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Every way to a plan for the new goal, by name."""
        yield "the old one", self.states
        yield "anew", self.agent.plan(self.seen(self.new)).states
        for skip in _SKIPS[1:]:
            yield f"SDEdit, {skip:.0%} skipped", self._sdedit(skip, seed)
        for method in METHODS:
            for skip in _SKIPS:
                yield f"{method}, {skip:.0%} skipped", self._edited(method=method, skip=skip)
        if source is not None:
            for method in METHODS:
                found = self._edited(method=method, source=source)
                yield f"{method}, of another run's code", found

    def _edited(self, **options: Any) -> np.ndarray:
        found: np.ndarray = self.agent.edit(
            self.states, self.seen(self.old), goal=self.new, **options
        ).states
        return found

    def _noise(self, seed: int, levels: int, x0: Tensor) -> Tensor:
        return torch.randn(levels, *x0.shape, generator=torch.Generator().manual_seed(seed))

    def _told(self, goals: np.ndarray) -> tuple[Any, Any, Chain, Tensor]:
        """Settings, context and chain of plans for goals, and the old plans as tensors."""
        model = self.agent.model
        settings = editing(model, self.agent.settings)
        step = PlanStep(model, settings)
        context = model.normalised_context(step.aimed(self.agent.context(self.seen(goals))))
        z = model.states(torch.from_numpy(self.states))
        assert isinstance(step.chain, Chain)
        return settings, context, step.chain, model.to_plan(z[:, 0], z[:, 1:])

    @torch.no_grad()
    def _sdedit(self, skip: float, seed: int) -> np.ndarray:
        """The old plan with noise, denoised for the new goal."""
        model = self.agent.model
        settings, context, chain, x0 = self._told(self.new)
        chain = below(chain, round(skip * settings.denoising_steps))
        noise = self._noise(seed, 1, x0)
        guided = guide(model, context, propose(model, context, noise, settings), settings, chain)
        level = torch.full((len(x0),), chain.grid[0])
        x = q_sample(chain.process, level, x0, guided.shift, noise[0], guided.scale)
        shift, scale = guided.shift, guided.scale
        x = ddim(guided.denoise, chain.process, chain.grid, x, proposal=shift, scale=scale)
        found: np.ndarray = model.environment_states(model.from_plan(context.state, x)).numpy()
        return found

    @torch.no_grad()
    def kept(self, seed: int) -> str:
        """Standard deviations of the kept noise, by method."""
        model = self.agent.model
        settings, context, chain, x0 = self._told(self.old)
        noise = self._noise(seed, settings.denoising_steps, x0)
        scale = model.noise_scale if chain.process.scaled else None
        told = []
        for method in METHODS:
            code = encode(model, context, x0, noise, settings, method=method, skip=0.0)
            told.append(f"{method} {float(code.noise(chain.process, scale).std()):.2f}")
        return ", ".join(told)

    def unchanged(self) -> str:
        """How far plans are off that are edited for nothing else, by method."""
        told = []
        for method in METHODS:
            same = self.agent.edit(self.states, self.seen(self.old), method=method).states
            told.append(f"{method} {np.abs(same - self.states).max():.1e}")
        return ", ".join(told)


def _judged(
    maze: Maze, found: np.ndarray, old: np.ndarray, goals: np.ndarray, left: float
) -> list[str]:
    """The cells of a row."""
    at, side = found[..., :2], maze.scale
    end = np.linalg.norm(at[:, -1] - goals, axis=-1) / side
    off = np.linalg.norm(at - old[..., :2], axis=-1)[:, 1:].mean(1) / side
    walls = [any(not maze.is_free(maze.cell(place)) for place in path) for path in at]
    met = interval(estimate_mean(end))
    return [met, f"{off.mean():.2f}", f"{left:.0%}", f"{np.mean(walls):.0%}"]


def _seen(states: np.ndarray, goals: np.ndarray) -> dict[str, np.ndarray]:
    return {"observation": states, "desired_goal": goals, "achieved_goal": states[:, :2]}


if __name__ == "__main__":
    sys.exit(main(Editing, "diffplan.scripts.checks.editing", sys.argv[1:]))
