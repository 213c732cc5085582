"""`diffplan compare RUN`: one trained model, every way of planning with it, in one table."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from diffplan.errors import DiffplanError

# name -> planning settings; everything else as in PlanningConfig, one candidate unless said
ROWS: dict[str, dict[str, Any]] = {
    "proposer only": {"start": "none", "steps": 0},
    "refined, 1 step": {"start": "rddm", "steps": 1},
    "refined, 3 steps": {"start": "rddm", "steps": 3},
    "refined, 5 steps": {"start": "rddm", "steps": 5},
    "refined, 3 steps, K = 16": {"start": "rddm", "steps": 3, "candidates": 16},
    "proposer only, K = 16": {"start": "none", "steps": 0, "candidates": 16},
    "from noise, 10 steps": {"start": "noise", "steps": 10},
    "from noise, 20 steps": {"start": "noise", "steps": 20},
    "from noise, 10 steps, K = 16": {"start": "noise", "steps": 10, "candidates": 16},
    "SDEdit start, 3 steps": {"start": "sdedit", "steps": 3},
    "published start, 5 steps": {"start": "published", "steps": 5},
}
BASE = "proposer only"
KEEPS = (2, 4, 8, 16)
_PROTOCOL = (
    "Every row plans with the same weights. Each row's plan-keeping interval (strides) is the best "
    "of the tried ones on the tuning seeds, which no evaluation episode uses. 'Against proposer "
    "only' is the mean paired difference on the same seeds. The published start is the raw "
    "proposal put into this model's own DDPM chain at level 5 of 20, not the published model."
)


@dataclass(frozen=True)
class Compare:
    """Compare ways of planning with one trained model: starts, steps, candidates.

    Each way first picks its best plan-keeping interval on seeds of its own; then all run the same
    evaluation episodes. A JSON file that holds finished rows of the same comparison is continued.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    episodes: int = 100
    """Evaluation episodes of each row, on the same seeds."""
    seed: int = 1000
    """Of the first evaluation episode."""
    tune_episodes: int = 40
    """Episodes that choose a row's plan-keeping interval."""
    tune_seed: int = 50_000
    """Of the first tuning episode."""
    json: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/compare.json)")
    ] = None
    """Where the results go; the picture goes beside it."""
    device: str = "cpu"
    """Where the networks run."""
    threads: int = 1
    """PyTorch threads."""

    def run(self) -> dict[str, Any]:
        """Compare, print and write; returns what the JSON file holds."""
        import torch

        from diffplan.scripts.results import check_writable

        if min(self.episodes, self.tune_episodes) < 1:
            raise DiffplanError("--episodes and --tune-episodes must be at least 1")
        evaluated = range(self.seed, self.seed + self.episodes)
        tuned = range(self.tune_seed, self.tune_seed + self.tune_episodes)
        if max(evaluated.start, tuned.start) < min(evaluated.stop, tuned.stop):
            raise DiffplanError(
                f"tuning seeds {tuned.start} to {tuned.stop - 1} overlap evaluation seeds "
                f"{evaluated.start} to {evaluated.stop - 1}; choose another --tune-seed"
            )
        target = self.json or self.folder / "compare.json"
        check_writable(target, "results file")
        torch.set_num_threads(self.threads)
        return _compare(self, target)


def _compare(options: Compare, target: Path) -> dict[str, Any]:
    from diffplan.agents import load_agent
    from diffplan.scripts.results import machine, write_json

    agent = load_agent(options.folder, device=options.device)
    report: dict[str, Any] = {
        "command": _command(options),
        "config": agent.config_name,
        "dataset": agent.info.id,
        "dataset_details": agent.info.details,
        "env_id": agent.info.env_id,
        "train_seconds": agent.train_seconds,
        "updates": agent.updates,
        "episodes": options.episodes,
        "seed": options.seed,
        "tune_episodes": options.tune_episodes,
        "tune_seed": options.tune_seed,
        "protocol": _PROTOCOL,
        "machine": machine(options.device, options.threads),
    }
    rows = _finished(target, report)
    for name, settings in ROWS.items():
        if name in rows:
            continue
        try:
            rows[name] = _row(options, name, settings)
        except DiffplanError as error:
            print(f"{name}: left out, {error}")
            continue
        write_json(target, {**report, "rows": rows})
    rows |= {n: r for n, r in _baselines(options, agent).items() if n not in rows}
    _differences(rows)
    _time(options, rows)
    report["rows"] = rows
    write_json(target, report)
    picture = target.with_suffix(".png")
    from diffplan.scripts.pictures import keep_sweep

    keep_sweep(picture, {n: r["tuning"] for n, r in rows.items() if r["tuning"]}, agent.stride)
    from diffplan.scripts.tables import compare_table

    print(compare_table(report))
    print(f"wrote {target}\nwrote {picture}")
    return report


def _command(options: Compare) -> str:
    words = ["diffplan", "compare", str(options.folder)]
    for name in ("episodes", "seed", "tune_episodes", "tune_seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return shlex.join(words)


def _finished(target: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Rows of an earlier, interrupted run of the very same comparison."""
    if not target.is_file():
        return {}
    try:
        before = json.loads(target.read_text())
        same = all(
            before.get(key) == report[key]
            for key in ("command", "dataset", "dataset_details", "train_seconds", "updates")
        )
        return dict(before["rows"]) if same else {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _row(options: Compare, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Tune the plan-keeping interval of one way of planning, then evaluate it."""
    from diffplan.agents import load_agent
    from diffplan.envs.environments import evaluation_env_factory
    from diffplan.envs.rollout import rollout
    from diffplan.scripts.results import Score
    from diffplan.statistics import bootstrap_mean

    settings = {"candidates": 1, **settings}
    horizon = load_agent(options.folder, device=options.device, **settings).horizon
    tuning: dict[str, list[float]] = {}
    for keep in sorted({min(keep, horizon) for keep in KEEPS}):
        agent = load_agent(options.folder, device=options.device, **settings, keep=keep)
        found = rollout(
            agent,
            evaluation_env_factory(agent.info),
            episodes=options.tune_episodes,
            num_envs=options.tune_episodes,
            seed=options.tune_seed,
            description=f"{name}, keep {keep}",
        )
        estimate = bootstrap_mean(found.returns)
        tuning[str(keep)] = [estimate.mean, estimate.low, estimate.high]
    keep = int(max(tuning, key=lambda key: tuning[key][0]))
    agent = load_agent(options.folder, device=options.device, **settings, keep=keep)
    factory = evaluation_env_factory(agent.info)
    result = rollout(
        agent,
        factory,
        episodes=options.episodes,
        num_envs=options.episodes,
        seed=options.seed,
        description=name,
    )
    score = Score(name, result.returns, result.lengths, result.success)
    return {**score.summary(None), "keep": keep, "tuning": tuning, "planning": agent.planning}


def _time(options: Compare, rows: dict[str, Any]) -> None:
    """Time all ways of planning one after the other, so that a busy machine favours none."""
    from diffplan.agents import load_agent
    from diffplan.envs.environments import evaluation_env_factory
    from diffplan.envs.rollout import time_decisions
    from diffplan.scripts.results import decision_times

    for row in rows.values():
        if row["tuning"] is None:
            continue
        agent = load_agent(options.folder, device=options.device, **row["planning"])
        factory = evaluation_env_factory(agent.info)
        row |= decision_times(time_decisions(agent, factory, seed=options.seed))


def _baselines(options: Compare, agent: Any) -> dict[str, Any]:
    """The data's own controller, the shortest path (PointMaze) and chance, on the same seeds."""
    from contextlib import closing

    from diffplan.envs.controllers import RandomPolicy, pointmaze_controllers
    from diffplan.envs.environments import evaluation_env_factory, make_env
    from diffplan.envs.rollout import Policy, rollout
    from diffplan.scripts.results import Score

    names = {
        "controller": "controller that made the data",
        "shortest_path": "shortest-path controller",
    }
    policies: dict[str, Policy] = {
        names[key]: policy
        for key, policy in pointmaze_controllers(agent.info, seed=options.seed).items()
    }
    with closing(make_env(agent.info)) as env:
        policies["random actions"] = RandomPolicy(env.action_space, seed=options.seed)
    found = {}
    for name, policy in policies.items():
        result = rollout(
            policy,
            evaluation_env_factory(agent.info),
            episodes=options.episodes,
            num_envs=options.episodes,
            seed=options.seed,
            description=name,
        )
        score = Score(name, result.returns, result.lengths, result.success)
        found[name] = {**score.summary(None), "keep": None, "tuning": None}
    return found


def _differences(rows: dict[str, Any]) -> None:
    """Add each row's mean paired difference to the proposer alone, with its interval."""
    from diffplan.statistics import bootstrap_mean

    base = rows.get(BASE)
    for row in rows.values():
        row["difference"] = None
        if base is not None and row is not base:
            paired = bootstrap_mean(np.array(row["returns"]) - np.array(base["returns"]))
            row["difference"] = [paired.mean, paired.low, paired.high]
