"""A model card: what an agent was trained on, how it scored, how it plans, who made it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.data.info import without_folders
from diffplan.model.run_folder import own_version


def model_card(
    agent: PlannerAgent, *, use: Sequence[str], more: Mapping[str, str], engine: str | None = None
) -> str:
    """Markdown under the hub's header.

    use: paragraphs on how to run it. more: rows at the end. engine: whose score is said, the
    agent's own where None.
    """
    info = agent.info.public
    header = None if agent.origin is None else agent.origin.header.public
    environments = [task.env_id for task in info.tasks] or [info.env_id]
    rows = {"data": info.id, "evaluated in": ", ".join(sorted({str(e) for e in environments}))}
    rows |= _score(agent, engine or agent.engine.name)
    if header is not None:
        rows["data"] += f", fingerprint `{header.fingerprint}`"
        rows["training"] = (
            f"{header.step:,} updates in {header.seconds:,.0f} s, seed {header.seed}"
            + (f": `{header.command}`" if header.command else "")
        )
        if header.decisions:
            rows["decided from the data"] = "; ".join(map(str, header.decisions))
        rows["versions"] = f"trained by diffplan {header.version}, "
    wrote = f"written by diffplan {own_version()}, PyTorch {version('torch')}"
    rows["versions"] = rows.get("versions", "") + wrote
    settings = (f"{key} {value}" for key, value in agent.planning.items() if value is not None)
    rows["planning"] = ", ".join(settings)
    tuning = None if agent.origin is None else agent.origin.tuning
    if tuning is not None and tuning.planning:
        rows["settings"] = tuning.line
        if agent.origin is not None and agent.origin.given:
            over = (f"{key} {value}" for key, value in agent.origin.given.items())
            rows["settings"] += f"; over these by hand: {', '.join(over)}"
    lines = [f"| {key} | {value} |" for key, value in (rows | dict(more)).items()]
    return "\n".join(
        [
            *("---", "library_name: diffplan", "pipeline_tag: reinforcement-learning"),
            *("tags: [offline-reinforcement-learning, planning, diffusion]", "---", ""),
            f"# {agent.config_name} on {info.id}",
            "",
            "A planner from offline data: an autoregressive proposal, optimised by diffusion in a "
            "few steps.",
            "",
            *("| | |", "|---|---|", *lines, ""),
            "\n\n".join(use),
            "",
        ]
    )


def _score(agent: PlannerAgent, engine: str) -> dict[str, str]:
    """Score and protocol as the evaluation of this checkpoint says them."""
    found = None if agent.origin is None else agent.origin.results(agent.planning, engine)
    if found is None:
        return {"score": "not evaluated with these settings"}
    parts = [f"return {_interval(found['return_mean'], found['return_ci95'])}"]
    if "normalised_score" in found:
        scaled = _interval(found["normalised_score"], found["normalised_ci95"])
        parts.append(f"D4RL scale {scaled}")
    if found.get("success_rate") is not None:
        low, high = found["success_ci95"]
        parts.append(f"success {found['success_rate']:.1%} [{low:.1%}, {high:.1%}]")
    chosen = [run["selection"]["note"] for run in found["runs"] if run["selection"]]
    command = shlex.join(map(without_folders, shlex.split(found["command"])))
    return {
        "score [95 % interval]": "; ".join([*parts, f"n = {found['episodes']}", *chosen]),
        "evaluated by": f"`{command}`, engine {found['engine']}",
        "protocol": found["protocol"],
    }


def _interval(mean: float, bounds: Sequence[float]) -> str:
    return f"{mean:.1f} [{bounds[0]:.1f}, {bounds[1]:.1f}]"
