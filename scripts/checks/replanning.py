"""Does the plan before help the next one? Planned anew, reused, or inverted with kept noise.

    python -m diffplan.scripts.checks.replanning RUN [RUN ...] --every 4 8

At a replan what is left of the old plan, its tail proposed, is taken apart from where it said the
body would be (`diffplan.planning.editing`) and put together again from where the body is, with the
same noise all through an episode. Successive plans are compared in the states that both have, in
the data's standard deviations.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import tyro
from torch import Tensor

from diffplan.agents import AgentState, PlannerAgent, load_agent
from diffplan.config.sections import PlanningConfig
from diffplan.engines.counter_rng import standard_normal
from diffplan.engines.decision import Plan, PlanStep
from diffplan.engines.table import Engine
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.model.context import Context
from diffplan.planning.editing import Edited, editing, encode
from diffplan.scripts.checks import main
from diffplan.scripts.report.intervals import estimate_mean
from diffplan.scripts.report.results import aligned, interval

_WAYS = ("anew", "reused", "inverted")
_TIMED = 40  # plans of which the median is told
_TITLES = ["data", "every", "plan", "n", "return", "success", "change", "ms"]


@dataclass(frozen=True)
class Replanning:
    """Play episodes with each way of making the next plan."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs of one dataset."""
    every: tuple[int, ...]
    """Environment steps between plans."""
    episodes: int = 100
    """Episodes of each run."""
    seed: int = 1000
    """Of the first episode."""
    skip: float = 0.0
    """Share of the levels that the inversion leaves out."""

    def run(self) -> None:
        """Print the table."""
        rows = [_TITLES]
        for every in self.every:
            found = {way: [self._played(run, way, every) for run in self.runs] for way in _WAYS}
            times = _milliseconds([found[way][0][1] for way in _WAYS], self.seed)
            for (way, played), ms in zip(found.items(), times, strict=True):
                rows.append([*self._row(way, every, played), f"{ms:.1f}"])
            print(aligned(rows[:1] + rows[-len(_WAYS) :]), flush=True)

    def _played(self, run: Path, way: str, every: int) -> tuple[Any, WatchedAgent]:
        reuse = way != "anew"
        agent = load_agent(run, engine="eager", replan_every=every, reuse=reuse)
        watched = WatchedAgent.of(agent, self.skip if way == "inverted" else None)
        result = rollout(
            watched,
            evaluation_env_factory(agent.info),
            episodes=self.episodes,
            num_envs=min(50, self.episodes),
            seed=self.seed,
            description=f"{run.name}, {way}, every {every}",
        )
        return result, watched

    def _row(self, way: str, every: int, found: list[tuple[Any, WatchedAgent]]) -> list[str]:
        results, agents = zip(*found, strict=True)
        # episodes are the units of one run, runs those of several
        returns = [r.returns.mean() for r in results] if len(found) > 1 else results[0].returns
        success = "–"
        if results[0].success is not None:
            success = f"{np.mean([r.success.mean() for r in results]):.0%}"
        return [
            agents[0].info.id,
            str(every),
            way,
            f"{len(found)} x {self.episodes}",
            interval(estimate_mean(np.asarray(returns))),
            success,
            f"{np.mean([gap for agent in agents for gap in agent.changes]):.3f}",
        ]


def _milliseconds(agents: list[WatchedAgent], seed: int) -> list[float]:
    """Median milliseconds of a core for a next plan of one environment, agents taking turns."""
    envs = [evaluation_env_factory(agent.info)() for agent in agents]
    seen = [env.reset(seed=seed)[0] for env in envs]
    states: list[AgentState | None] = [None] * len(agents)
    times: list[list[float]] = [[] for _ in agents]
    while min(map(len, times)) < _TIMED:
        for row, (agent, env) in enumerate(zip(agents, envs, strict=True)):
            began = time.thread_time()
            action, state = agent.predict(seen[row], states[row])
            if state.age[0] == 0 and state.count[0] > 1:
                times[row].append(1e3 * (time.thread_time() - began))
            seen[row], _, ended, cut, _ = env.step(action)
            states[row] = state
            if ended or cut:
                seen[row], states[row] = env.reset()[0], None
    for env in envs:
        env.close()
    return [statistics.median(each) for each in times]


class WatchedAgent(PlannerAgent):
    """An agent that notes how its plans change, and may invert the one before."""

    changes: list[float]
    _skip: float | None
    _levels: PlanningConfig
    _step: PlanStep

    @classmethod
    def of(cls, agent: PlannerAgent, skip: float | None) -> Self:
        """The agent, inverting where skip is a number."""
        twin = cls.__new__(cls)
        twin.__dict__.update(agent.__dict__)
        twin.changes, twin._skip = [], skip
        if skip is not None:
            twin._levels = editing(agent.model, agent.settings)
            twin._step = PlanStep(agent.model, twin._levels)
        return twin

    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> tuple[np.ndarray, AgentState]:
        """As `PlannerAgent.predict`, with notes."""
        action, after = super().predict(observation, state, episode_start, deterministic, seed)
        if state is not None:
            known = (after.age == 0) & (state.count > 0)
            if episode_start is not None:
                known &= ~np.asarray(episode_start, bool)
            passed = self.settings.replan_every // self.stride
            old = state.plan.states[known][:, passed + 1 :]
            gap = (old - after.plan.states[known][:, 1 : 1 + old.shape[1]]) / self.model.states.std
            self.changes += gap.square().mean((1, 2)).sqrt().tolist()
        return action, after

    def _left(self, plan: Plan, rows: np.ndarray) -> Tensor:
        if self._skip is None:
            return super()._left(plan, rows)
        passed = self.settings.replan_every // self.stride
        return plan.states[self._places(rows), passed:]  # with where the body was to be

    @torch.no_grad()
    def _plan(self, engine: Engine, context: Context, seeds: np.ndarray, count: np.ndarray) -> Plan:
        left = context.previous
        if left is None or self._skip is None:
            return super()._plan(engine, context, seeds, count)
        model, settings = self.model, self._levels
        context = replace(context, previous=None)
        was = model.normalised_context(self._step.aimed(replace(context, state=left[:, 0])))
        z = model.states(left)
        missing = self.horizon + 1 - z.shape[1]
        assert model.proposer is not None  # `planning.reuse` has seen to it
        tail = model.proposer.propose(replace(was, state=z[:, -1]), None, missing).states
        before = torch.cat([z, tail], 1)
        x0 = model.to_plan(before[:, 0], before[:, 1:])
        numbers = torch.from_numpy(seeds)
        drawn = standard_normal(
            *(numbers, torch.full_like(numbers, -1), settings.denoising_steps * x0[0].numel())
        )
        noise = drawn.unflatten(1, (-1, *x0.shape[1:])).transpose(0, 1)
        code = encode(*(model, was, x0, noise, settings), method="edit-friendly", skip=self._skip)
        self._step.steering = Edited(code, before)
        made: Plan = self._step(context, self._step.draw(numbers, numbers))
        self._step.steering = None
        return made._replace(violations=None)


if __name__ == "__main__":
    sys.exit(main(Replanning, "diffplan.scripts.checks.replanning", sys.argv[1:]))
