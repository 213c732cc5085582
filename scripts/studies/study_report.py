"""What `diffplan study` found: scores with rliable's measures, one table, one picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffplan.scripts.report.intervals import Estimate
from diffplan.scripts.report.markdown import machine_line, markdown, mean_interval

if TYPE_CHECKING:
    from diffplan.data.episodes import Episodes

_OURS = "ours"
_PROTOCOL = (
    "Nothing was chosen on these training seeds or episodes: each learner is scored by its last "
    "update, on {episodes} episodes, seeds {first} to {last}, to the environment's own end or time "
    "limit. A run's score is the mean of its episodes. By data: the mean over training seeds with "
    "a 95 % Student's t interval over them (of one seed: over its episodes), then the "
    "interquartile mean over all episodes. Over data: interquartile means (IQM) over runs with "
    "stratified bootstrap intervals (Agarwal et al. 2021, arXiv 2108.13264), stretched for few "
    "runs, and means with Student's t within data, on the {common} sets that all rows have: "
    "{names}. Ours ahead: how likely a run of ours scores above one of the "
    "row. CPU seconds are those of one run. With goals, model-free methods observe state and "
    "goal and relabel goals in hindsight, reward -1 a step until the goal. Rows called 0.999 have "
    "that discount, ours for data without a goal, in place of their papers' 0.99. Curves are mean "
    "scores on the common sets after a quarter, half and all of the updates; their papers make "
    "1,000,000."
)


def scale(episodes: Episodes, file: Path, count: int, seed: int) -> dict[str, Any]:
    """What returns are scored by, and its name: D4RL's `reference` of the environment.

    Where it has none, the returns `low` and `high` of random actions and of the shortest-path
    controller on the same episodes, kept in `file`; without a controller returns stay as they are.
    """
    from diffplan.envs.rollouts.references import reference_key
    from diffplan.envs.rollouts.serial import rollout
    from diffplan.envs.simulators.environments import evaluation_env_factory
    from diffplan.scripts.evaluate.baselines import baselines
    from diffplan.scripts.report.files import write_json

    key = reference_key(episodes.info)
    if key is not None:
        return {"reference": key, "name": f"D4RL's of {key}"}
    asked = [count, seed]
    if file.is_file() and (kept := json.loads(file.read_text()))["asked"] == asked:
        return dict(kept["scale"])
    found = {}
    for other in baselines(episodes.info, seed):
        result = rollout(
            other.policy,
            evaluation_env_factory(episodes.info),
            episodes=count,
            num_envs=min(count, other.rows or count),
            seed=seed,
            description=other.name,
        )
        found[other.key] = float(result.returns.mean())
    high = found.get("shortest", found.get("controller"))
    name = "0: random actions, 100: the shortest-path controller"
    result_scale = {"low": found["random"], "high": high, "name": name}
    if high is None:
        result_scale = {"low": 0.0, "high": 100.0, "name": "none: returns"}
    write_json(file, {"asked": asked, "scale": result_scale, "returns": found})
    return result_scale


def summary(
    cells: dict[str, tuple[str, dict[str, list[dict[str, Any]]]]],
    scale_of: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    """Figures by data and over data. cells: name -> (data, row -> the cells of its seeds)."""
    study: dict[str, Any] = {}
    for name, (data, rows) in cells.items():
        by = scale_of(data)
        study[name] = {"scale": by, "rows": {k: _row(found, by) for k, found in rows.items()}}
    labels = list(dict.fromkeys(label for found in study.values() for label in found["rows"]))
    common = [name for name, found in study.items() if set(found["rows"]) == set(labels)]
    return {"study": study, "common": common, "over": _over(study, labels, common)}


def _row(cells: list[dict[str, Any]], by: dict[str, Any]) -> dict[str, Any]:
    from diffplan.scripts.report.intervals import interquartile_mean, runs_mean

    scores = [_scores(cell["returns"], by) for cell in cells]
    estimate = runs_mean(scores)
    seeds = [float(run.mean()) for run in scores]
    trained = [s for cell in cells if (s := cell["train_cpu_seconds"]) is not None]
    found: dict[str, Any] = {
        "mean": estimate.mean,
        "mean_ci95": bounds(estimate),
        "iqm": interquartile_mean(np.concatenate(scores)),
        "seed_scores": seeds,
        "updates": cells[0]["asked"]["updates"],
        "train_cpu_seconds": sum(trained) / len(trained) if trained else None,
        "evaluation_cpu_seconds": sum(c["evaluation_cpu_seconds"] for c in cells) / len(cells),
    }
    if all(cell.get("success") is not None for cell in cells):
        rates = [sum(cell["success"]) / len(cell["success"]) for cell in cells]
        found["success_rate"] = sum(rates) / len(rates)
    if "curve" in cells[0]:
        marks = zip(*(cell["curve"].values() for cell in cells), strict=True)
        found["curve"] = [_mean([float(_scores(r, by).mean()) for r in mark]) for mark in marks]
    return found


def _scores(returns: list[float], by: dict[str, Any]) -> np.ndarray:
    from diffplan.envs.rollouts.references import normalised_score

    values = np.asarray(returns)
    scores = normalised_score(by.get("reference"), values)
    return 100 * (values - by["low"]) / (by["high"] - by["low"]) if scores is None else scores


def _over(study: dict[str, Any], labels: list[str], common: Sequence[str]) -> dict[str, Any]:
    """Each row over the common data."""
    from diffplan.scripts.report.intervals import (
        improvement,
        stratified_interquartile,
        stratified_mean,
    )

    found: dict[str, Any] = {}
    for label in labels if common else []:
        rows = [study[name]["rows"][label] for name in common]
        runs = [row["seed_scores"] for row in rows]
        estimate, mean = stratified_interquartile(runs), stratified_mean(runs)
        figures = {
            "iqm": estimate.mean,
            "iqm_ci95": bounds(estimate),
            "mean": mean.mean,
            "mean_ci95": bounds(mean),
            "updates": rows[0]["updates"],
            "train_cpu_seconds": _mean([row["train_cpu_seconds"] for row in rows]),
            "evaluation_cpu_seconds": _mean([row["evaluation_cpu_seconds"] for row in rows]),
            "training_seeds": min(len(run) for run in runs),
        }
        if all("curve" in row for row in rows):
            marks = zip(*(row["curve"] for row in rows), strict=True)
            figures["curve"] = [_mean(list(mark)) for mark in marks]
        if label != _OURS and _OURS in labels:
            ours = [study[name]["rows"][_OURS]["seed_scores"] for name in common]
            ahead = improvement(ours, runs)
            figures |= {"ours_ahead": ahead.mean, "ours_ahead_ci95": bounds(ahead)}
        found[label] = figures
    return found


def bounds(estimate: Estimate) -> list[float] | None:
    """The interval for JSON, None where the values are too few for one."""
    return None if math.isnan(estimate.low) else [estimate.low, estimate.high]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def study_table(data: dict[str, Any]) -> str:
    """The tables of `diffplan study`, in Markdown: by data, and over data."""
    labels = list(dict.fromkeys(k for found in data["study"].values() for k in found["rows"]))
    lines = []
    for name, found in data["study"].items():
        rows = (found["rows"].get(label) for label in labels)
        lines.append([name, *("–" if row is None else _cell(row) for row in rows)])
    parts = [markdown(["data", *labels], lines)]
    if data["over"]:
        header = [
            "over data",
            "IQM [95 % CI]",
            "mean [95 % CI]",
            "ours ahead [95 % CI]",
            "training seeds",
        ]
        header += ["updates", "mean on the way", "CPU s training", "CPU s evaluation"]
        parts.append(markdown(header, [_line(key, row) for key, row in data["over"].items()]))
    scales = dict.fromkeys(
        f"{name}: {found['scale']['name']}" for name, found in data["study"].items()
    )
    protocol = _PROTOCOL.format(
        episodes=data["episodes"],
        first=data["seed"],
        last=data["seed"] + data["episodes"] - 1,
        common=len(data["common"]),
        names=", ".join(data["common"]) or "none",
    )
    parts += [f"Scale of the scores: {'; '.join(scales)}.", protocol]
    parts.append(f"Command: `{data['command']}`. Machine: {machine_line(data)}.")
    return "\n\n".join(parts)


def _cell(row: dict[str, Any]) -> str:
    text = f"{mean_interval(row['mean'], row['mean_ci95'])}; {row['iqm']:.1f}"
    success = row.get("success_rate")
    return text if success is None else f"{text}; {100 * success:.0f} % succeed"


def _line(label: str, row: dict[str, Any]) -> list[str]:
    seconds = row["train_cpu_seconds"]
    return [
        label,
        mean_interval(row["iqm"], row["iqm_ci95"]),
        mean_interval(row["mean"], row["mean_ci95"]),
        mean_interval(row["ours_ahead"], row["ours_ahead_ci95"], 2) if "ours_ahead" in row else "–",
        str(row["training_seeds"]),
        f"{row['updates']:,}",
        ", ".join(f"{value:.0f}" for value in row["curve"]) if "curve" in row else "–",
        "–" if seconds is None else f"{seconds:.0f}",
        f"{row['evaluation_cpu_seconds']:.0f}",
    ]


def draw(data: dict[str, Any], path: Path) -> None:
    """A panel of intervals for each set of data and one over those that all rows have."""
    from matplotlib.figure import Figure

    from diffplan.scripts.report.pictures import CANDIDATE, PLAN, save, style

    panels: dict[str, dict[str, Any]] = {n: found["rows"] for n, found in data["study"].items()}
    labels = list(dict.fromkeys(label for rows in panels.values() for label in rows))
    if len(data["common"]) > 1:
        panels[f"{len(data['common'])} sets that all have"] = data["over"]
    columns = min(5, len(panels))
    lines = -(-len(panels) // columns)
    size = (1.4 + 2.2 * columns, 0.8 + lines * (0.6 + 0.24 * len(labels)))
    with style():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, rows) in zip(grid, panels.items(), strict=False):
            for place, label in enumerate(labels):
                if label not in rows:
                    continue
                row, colour = rows[label], PLAN if label == _OURS else CANDIDATE
                if row["mean_ci95"] is not None:
                    ends = row["mean_ci95"]
                    axes.plot(ends, [place, place], color=colour, linewidth=5, alpha=0.4)
                axes.plot(row["mean"], place, "o", color=colour, markersize=4)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_title(name, loc="left", fontsize=9)
        figure.supxlabel("score: mean, bars: 95 % intervals", fontsize=9)
        save(figure, path)
