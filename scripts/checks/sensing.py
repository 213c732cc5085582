"""What a planner is worth that sees a few columns at a time, by how these are chosen.

    python -m diffplan.scripts.checks.sensing RUN --out FOLDER

Beside choosing by the spread of particles: any columns at random, and always the same, the ones
that are asked for most in episodes of other seeds. FOLDER gets sensing.json and a picture.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from diffplan.agents import PlannerAgent, load_agent
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.scripts.checks import main
from diffplan.scripts.report import pictures
from diffplan.scripts.report.intervals import estimate_mean
from diffplan.scripts.report.results import aligned, interval

_TITLES = ["data", "columns", "choice", "n", "return", "error", "ms a step"]
_LOOKED_AT = 10  # episodes in which columns are counted
_COLOURS = {"active": "#1f5fa8", "random": "#b33", "fixed": "#7a7a7a"}


@dataclass(frozen=True)
class Sensing:
    """Play with few columns measured at a time."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """A run."""
    out: Path
    """Folder of the results."""
    columns: tuple[int, ...] = (0, 1, 2, 4, 8)
    """How many are measured."""
    choices: tuple[str, ...] = ("active", "random", "fixed")
    """How they are chosen."""
    episodes: int = 50
    """Episodes of each row."""
    seed: int = 1000
    """Of the first episode."""
    choosing_seed: int = 5000
    """Of the first episode in which the fixed columns are counted."""

    def run(self) -> None:
        """Write results and print their table."""
        self.out.mkdir(parents=True, exist_ok=True)
        agent = load_agent(self.run_folder, engine="eager")
        whole = range(agent.layout.state_dim)
        rows = [self._row(_Masked(agent.sensing(len(whole), choice=whole)), len(whole), "all")]
        for count in self.columns:
            for choice in self.choices if count else ("none",):
                asked: Any = range(0) if not count else choice
                if choice == "fixed":
                    asked = _most_asked(agent, count, self.choosing_seed)
                policy = _Masked(agent.sensing(count, choice=asked))
                rows.append(self._row(policy, count, choice))
        found = {"seed": self.seed, "rows": rows}
        (self.out / "sensing.json").write_text(json.dumps(found, indent=1) + "\n")
        _draw(self.out / "sensing.png", rows, agent)
        print(aligned([_TITLES, *map(_line, rows)]))

    def _row(self, policy: _Masked, count: int, choice: str) -> dict[str, Any]:
        agent = policy.agent
        result = rollout(
            policy,
            evaluation_env_factory(agent.info),
            episodes=self.episodes,
            num_envs=self.episodes,
            seed=self.seed,
            record=1,
            description=f"{agent.info.id}, {count} columns, {choice}",
        )
        return {
            "data": agent.info.id,
            "columns": count,
            "choice": choice,
            "returns": [float(each) for each in result.returns],
            "error": float(np.sqrt(policy.squares / max(policy.seen, 1))),
            "step_ms": _step_ms(policy.agent, result.traces[0]),
        }


class _Masked:
    """A sensing agent in a world that shows it what it asks for."""

    def __init__(self, agent: PlannerAgent) -> None:
        self.agent = agent
        self.std = agent.model.observed.std.numpy(force=True)
        self.squares, self.seen = 0.0, 0
        self.asked = np.zeros(agent.layout.state_dim)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """As the agent, of what it has asked for."""
        states, _, _ = self.agent._split(observation)
        whole = np.ones(len(states), bool) if episode_start is None else episode_start
        asks = getattr(state, "asks", None)
        given = observation if asks is None else _shown(observation, asks | whole[:, None])
        after: Any
        actions, after = self.agent.predict(given, state, episode_start, deterministic)
        off = (after.estimate - states)[~whole] / self.std
        self.squares, self.seen = self.squares + float(np.square(off).sum()), self.seen + off.size
        self.asked += after.asks.sum(0)
        return actions, after

    def reset_rows(self, state: Any, rows: np.ndarray, seeds: np.ndarray) -> Any:
        """As the agent."""
        return self.agent.reset_rows(state, rows, seeds)

    def observe(self, state: Any, rewards: np.ndarray, rows: np.ndarray) -> Any:
        """As the agent."""
        return self.agent.observe(state, rewards, rows)


def _most_asked(agent: PlannerAgent, count: int, seed: int) -> tuple[int, ...]:
    """The columns that an active agent asks for most."""
    policy = _Masked(agent.sensing(count))
    rollout(
        policy,
        evaluation_env_factory(agent.info),
        episodes=_LOOKED_AT,
        num_envs=_LOOKED_AT,
        seed=seed,
        description=f"{agent.info.id}, which {count} are asked for most",
    )
    return tuple(sorted(np.argsort(-policy.asked, kind="stable")[:count].tolist()))


def _step_ms(agent: PlannerAgent, trace: Trace) -> float:
    """Mean milliseconds of a core for an environment step, new plans among them."""
    every = agent.settings.replan_every
    steps = min(10 * every, len(trace.actions)) // every * every
    state: Any = None
    times = []
    for step in range(steps):
        given = _one(trace.observations, step)
        if state is not None:
            given = _shown(given, state.asks)
        began = time.thread_time()  # other work does not count
        _, state = agent.predict(given, state)
        times.append(1e3 * (time.thread_time() - began))
    return statistics.median(np.reshape(times, (-1, every)).mean(1).tolist())


def _one(observations: Any, step: int) -> Any:
    """One step of a trace's observations, as a batch."""
    if isinstance(observations, Mapping):
        return {key: np.asarray(value[step])[None] for key, value in observations.items()}
    return np.asarray(observations[step])[None]


def _shown(observation: Any, asks: np.ndarray) -> Any:
    """What is left of an observation where only this is measured."""
    if isinstance(observation, Mapping):
        shown = np.where(asks, observation["observation"], np.nan)
        return {**observation, "observation": shown}
    return np.where(asks, observation, np.nan)


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["data"],
        str(row["columns"]),
        row["choice"],
        str(len(row["returns"])),
        interval(estimate_mean(row["returns"])),
        f"{row['error']:.2f}",
        f"{row['step_ms']:.2f}",
    ]


def _draw(path: Path, rows: Sequence[dict[str, Any]], agent: PlannerAgent) -> None:
    with pictures.style():
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, width in (("all", 1.2), ("none", 0.8)):
            for row in rows:
                if row["choice"] == name:
                    mean = float(np.mean(row["returns"]))
                    axes.axhline(mean, color="black", linewidth=width, linestyle=":")
                    axes.annotate(
                        f"{name} measured", (0.99, mean), xycoords=("axes fraction", "data"),
                        ha="right", va="bottom", fontsize=8,
                    )  # fmt: skip
        for choice, colour in _COLOURS.items():
            mine = [row for row in rows if row["choice"] == choice]
            if mine:
                at = [row["columns"] for row in mine]
                means = [estimate_mean(row["returns"]) for row in mine]
                middle = [each.mean for each in means]
                below = [each.mean - each.low for each in means]
                above = [each.high - each.mean for each in means]
                axes.errorbar(
                    at, middle, [below, above], color=colour, marker="o", capsize=3, label=choice
                )
        axes.set(xlabel=f"columns measured, of {agent.layout.state_dim}", ylabel="return")
        axes.legend()
        pictures.save(figure, path)


if __name__ == "__main__":
    sys.exit(main(Sensing, "diffplan.scripts.checks.sensing", sys.argv[1:]))
