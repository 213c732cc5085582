"""What the rows of a study are set beside: what made the data, and milliseconds taken in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffplan.scripts.studies.sources import Source

if TYPE_CHECKING:
    from diffplan.agents import PlannerAgent
    from diffplan.scripts.evaluate.tasks import Tasks

ROUNDS, PLANS_A_ROUND = 3, 6  # of timing
NONE = {"low": 0.0, "high": 100.0, "name": "none: returns"}


def beside(
    source: Source, file: Path, episodes: int, seed: int, *, others: bool = True
) -> dict[str, Any]:
    """What scores are told by ("scale"), and returns of other policies on the same episodes.

    Scores are on D4RL's scale of the environment; where it has none, of mazes with random actions
    at 0 and the shortest-path controller at 100 (or the one there is); else, and for several tasks,
    they are returns.
    "others", name -> returns: controllers of the data, chance, and the data's own episodes where no
    goal ends them; none where `others` is False. Kept in `file`.
    """
    from diffplan.envs.rollouts.references import reference_key
    from diffplan.envs.rollouts.serial import rollout
    from diffplan.envs.simulators.environments import evaluation_env_factory
    from diffplan.scripts.evaluate.baselines import baselines, data_score
    from diffplan.scripts.report.files import write_json

    if source.tasks > 1:
        return {"scale": NONE, "others": {}}
    info, asked = source.about.info, [episodes, seed, source.about.identity]
    if file.is_file() and (kept := json.loads(file.read_text()))["asked"] == asked:
        return {"scale": kept["scale"], "others": kept["others"]}
    key = reference_key(info)
    if key is not None and not others:
        return {"scale": {"reference": key, "name": f"D4RL's of {key}"}, "others": {}}
    returns, means, names = {}, {}, {}
    for other in baselines(info, seed):
        played = rollout(
            other.policy,
            evaluation_env_factory(info),
            episodes=episodes,
            num_envs=min(episodes, other.rows or episodes),
            seed=seed,
            description=other.name,
        )
        returns[other.name] = played.returns.tolist()
        means[other.key], names[other.key] = float(played.returns.mean()), other.name
    if source.header is None and _comparable(source):
        score = data_score(info, source.about.identity)
        if score is not None:
            returns[score.name] = score.returns.tolist()
    best = "shortest_path" if "shortest_path" in means else "controller"
    high, by = means.get(best), NONE
    if key is not None:
        by = {"reference": key, "name": f"D4RL's of {key}"}
    elif high is not None and high > means["random"]:  # of a few episodes they may be alike
        name = f"0: random actions, 100: {names[best]}"
        by = {"low": means["random"], "high": high, "name": name}
    found = {"scale": by, "others": returns}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"asked": asked, **found})
    return found


def _comparable(source: Source) -> bool:
    """Whether the data's episodes end as those that score do: goals end those of mazes."""
    if not source.has_goal:
        return True
    episodes = source.episodes()
    return not episodes.terminations.any() and bool((episodes.lengths == episodes.lengths[0]).all())


def scores(returns: list[float] | np.ndarray, by: Mapping[str, Any]) -> np.ndarray:
    """Returns on a scale of `beside`."""
    from diffplan.envs.rollouts.references import normalised_score

    values = np.asarray(returns, np.float64)
    found = normalised_score(by.get("reference"), values)
    return 100 * (values - by["low"]) / (by["high"] - by["low"]) if found is None else found


def times(agents: Mapping[str, PlannerAgent], tasks: Tasks, seed: int, name: str) -> dict[str, Any]:
    """Time the agent of every row in turn, several times over: milliseconds.

    What else the machine does slows every row alike, and the fastest round is nearest to what
    the row itself costs.
    """
    from tqdm import tqdm

    from diffplan.scripts.report.results import decision_times

    found: dict[str, list[dict[str, float | None]]] = {label: [] for label in agents}
    for _ in tqdm(range(ROUNDS), desc=f"timing {name}", unit=" rounds", leave=False):
        for label, agent in agents.items():
            # one interval unmeasured: engines and environment start in it
            interval = agent.settings.replan_every
            steps = PLANS_A_ROUND * interval
            measured = tasks.time(agent, seed=seed, steps=steps, warmup=interval)
            found[label].append(decision_times(measured))
    result = {}
    for label, agent in agents.items():
        interval = agent.settings.replan_every
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
