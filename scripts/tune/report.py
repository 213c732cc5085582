"""What a tuning says: its table, its trials for tuning.json, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffplan.scripts.report.intervals import Estimate, estimate_mean
from diffplan.scripts.report.pictures import CANDIDATE, EXECUTED, PLAN, save, style
from diffplan.scripts.report.results import aligned, interval
from diffplan.scripts.tune.design import Settings
from diffplan.scripts.tune.halving import Outcome, Schedule, Trial


def name_of(settings: Settings) -> str:
    """What differs from the default."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the default"


def _estimate(trial: Trial) -> Estimate | None:
    scores = [score for score in trial.scores if score is not None]
    return estimate_mean(scores) if scores else None


def table(outcome: Outcome, tried: Sequence[Settings], plan: Schedule) -> str:
    """A line for every setting, those that came furthest first, and what was decided."""
    order = sorted(
        range(len(tried)),
        key=lambda index: (outcome.reached[index], outcome.trials[index].rank),
        reverse=True,
    )
    scale, unit = (100.0, " %") if outcome.by == "success" else (1.0, "")
    lines = [["planning", "out after", "episodes", f"{outcome.by} [95 % CI]", "failed"]]
    for index in order:
        trial, reached = outcome.trials[index], outcome.reached[index]
        found = _estimate(trial)
        lines.append(
            [
                name_of(tried[index]),
                "final" if reached == len(plan.rounds) else f"round {reached + 1}",
                str(len(trial.scores)),
                interval(found, scale, unit) if found else "-",
                str(sum(score is None for score in trial.scores) or "-"),
            ]
        )
    failures = [failure for trial in outcome.trials for failure in trial.failures]
    lost = [f"the first of the failed episodes: {failures[0]}"] if failures else []
    return "\n".join(["", aligned(lines), "", *lost, decision(outcome, tried, plan)])


def decision(outcome: Outcome, tried: Sequence[Settings], plan: Schedule) -> str:
    """The final in a line."""
    name, found = name_of(tried[outcome.challenger]), outcome.difference
    if found is None:
        return f"the default is kept: {name} has no episode in common with it in the final"
    digits = 3 if abs(found.mean) < 1 else 1
    mean, low, high = (f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    each = f"{plan.final} episodes" + (f" in each of {plan.tasks} tasks" if plan.tasks > 1 else "")
    result = f"{outcome.by} {mean} [80 %: {low}, {high}] in a final of {each}, which chose neither"
    if outcome.adopted:
        return f"{name}: {result}; the run plans so from here on"
    return f"the default is kept: {name} against it, {result}"


def summary(outcome: Outcome, tried: Sequence[Settings], plan: Schedule) -> dict[str, Any]:
    """Every trial, for tuning.json."""
    found = outcome.difference
    trials = []
    for settings, trial, reached in zip(tried, outcome.trials, outcome.reached, strict=True):
        estimate = _estimate(trial)
        trials.append(
            {
                "settings": settings,
                "rounds": reached + 1,
                "episodes": len(trial.scores),
                "mean": estimate and estimate.mean,
                "ci95": estimate and [estimate.low, estimate.high],
                "scores": trial.scores,
                "returns": trial.returns,
                "failures": trial.failures,
            }
        )
    return {
        "challenger": tried[outcome.challenger],
        "difference": found and [found.mean, found.low, found.high],
        "trials": trials,
    }


def draw(path: Path, outcome: Outcome, tried: Sequence[Settings], plan: Schedule) -> None:
    """Write the mean of every setting after each of its rounds, against the episodes played.

    What the first round drops and lies far below stands at the lower edge.
    """
    ends = list(accumulate([each for _, each in plan.rounds] + [plan.final]))
    with style():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        kept: list[float] = []
        others: str | None = "others, at the lower edge if below"
        for index, (trial, reached) in enumerate(zip(outcome.trials, outcome.reached, strict=True)):
            scores = np.array([np.nan if s is None else s for s in trial.scores])
            means = []
            for end in ends[: reached + 1]:
                played = scores[: end * plan.tasks]
                means.append(np.nanmean(played) if np.isfinite(played).any() else np.nan)
            final = reached == len(plan.rounds)
            colour = CANDIDATE if not final else PLAN if index else EXECUTED
            kept += means if reached else []
            axes.plot(
                *(ends[: reached + 1], means),
                color=colour,
                marker="o",
                alpha=1 if final else 0.5,
                linewidth=2 if final else 1,
                label=name_of(tried[index]).replace("_", " ") if final else others,
            )
            others = None if not final else others  # one entry for all of them
        low, high = np.nanmin(kept), np.nanmax(kept)
        low -= 0.5 * (high - low) + 1e-9
        for line in axes.get_lines():
            line.set_ydata(np.maximum(np.asarray(line.get_ydata(), float), low))
            line.set_clip_on(False)
        axes.set_ylim(low, high + 0.1 * (high - low) + 1e-9)
        axes.set_xscale("log")
        axes.set_xticks(ends, [str(end) for end in ends])
        axes.minorticks_off()
        axes.set(xlabel="episodes of a setting" + (" and task" if plan.tasks > 1 else ""))
        axes.set(ylabel=f"mean {outcome.by}, on seeds that are not reported")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center")
        save(figure, path)
