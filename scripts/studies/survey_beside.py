"""What a survey measures beside its cells: the controllers of the data, and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffplan.agents import PlannerAgent

ROUNDS = 3
_PLANS_A_ROUND = 6


def others(folder: Path, agent: PlannerAgent, episodes: int, seed: int) -> dict[str, Any]:
    """The controllers of the data, or the data themselves, on the same episodes.

    folder: of a dataset in the survey, where they are kept.
    """
    from diffplan.envs.rollouts.serial import rollout
    from diffplan.envs.simulators.environments import evaluation_env_factory
    from diffplan.model.run_folder import find_checkpoint, read_header
    from diffplan.scripts.evaluate.baselines import baselines, data_score
    from diffplan.scripts.report.files import write_json
    from diffplan.scripts.report.intervals import estimate_mean

    file = folder / "cells" / "others.json"
    asked = [episodes, seed]
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept["asked"] == asked:
            return dict(kept["others"])
    found: dict[str, Any] = {}
    for other in baselines(agent.info, seed):
        # chance is far from every row and would set the scale of the picture
        if other.key == "random":
            continue
        result = rollout(
            other.policy,
            evaluation_env_factory(agent.info),
            episodes=episodes,
            num_envs=min(episodes, other.rows or episodes),
            seed=seed,
            description=other.name,
        )
        estimate = estimate_mean(result.returns)
        found[other.name] = [estimate.mean, estimate.low, estimate.high]
    # with goals the data end where they are reached, and episodes here go on
    if not agent.layout.goal_dim:
        run = next(folder.glob("*/seed-0"))
        score = data_score(agent.info, read_header(find_checkpoint(run)).fingerprint)
        if score is not None:
            estimate = score.return_estimate
            found[score.name] = [estimate.mean, estimate.low, estimate.high]
    write_json(file, {"asked": asked, "others": found})
    return found


def times(agents: dict[str, PlannerAgent], seed: int, name: str) -> dict[str, Any]:
    """Time the agent of every row in turn, several times over: milliseconds."""
    from tqdm import tqdm

    from diffplan.envs.rollouts.serial import time_decisions
    from diffplan.envs.simulators.environments import evaluation_env_factory
    from diffplan.scripts.report.results import decision_times

    found: dict[str, list[dict[str, float | None]]] = {label: [] for label in agents}
    for _ in tqdm(range(ROUNDS), desc=f"timing {name}", unit=" rounds", leave=False):
        for label, agent in agents.items():
            # one interval unmeasured: engines and environment start in it
            interval = agent.settings.replan_every
            measured = time_decisions(
                agent,
                evaluation_env_factory(agent.info),
                seed=seed,
                steps=_PLANS_A_ROUND * interval,
                warmup=interval,
            )
            found[label].append(decision_times(measured))
    result = {}
    for label, agent in agents.items():
        interval = agent.settings.replan_every
        # the fastest round: other work on the machine only adds
        plan, between = (
            min((ms for t in found[label] if (ms := t[key]) is not None), default=0.0)
            for key in ("replan_ms_median", "between_ms_median")
        )
        result[label] = {
            "replan_ms": plan,
            "between_ms": between,
            "decision_ms": (plan + (interval - 1) * between) / interval,
        }
    return result
