"""What a study found: scores by data and over data, what a plan costs, in tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffplan.errors import DiffplanError
from diffplan.scripts.report.intervals import (
    Estimate,
    bounds,
    improvement,
    interquartile_mean,
    pooled_rate,
    profile,
    runs_mean,
    stratified_interquartile,
    stratified_mean,
    wilson,
)
from diffplan.scripts.report.markdown import machine_line, markdown, mean_interval, percent
from diffplan.scripts.report.seeds import chosen, scored, seeds_line
from diffplan.scripts.studies.beside import NONE, ROUNDS, beside, scores, times

if TYPE_CHECKING:
    from diffplan.scripts.studies.cells import Cells
    from diffplan.scripts.studies.sources import Source

_PROTOCOL = (
    "Every learner is scored as its last update leaves it, to the environment's own end or time "
    "limit; a run's score is the mean of its episodes. By data: the mean over training seeds with "
    "a 95 % Student's t interval over them (of one seed: over its episodes), then the "
    "interquartile mean over all episodes. Over data: interquartile means (IQM) over runs with "
    "stratified bootstrap intervals (Agarwal et al. 2021, arXiv 2108.13264), stretched for few "
    "runs, and means with Student's t within data. Ahead: how likely a run of the first row scores "
    "above one of this row. CPU seconds are those of one run."
)
_MODEL_FREE = (
    " With goals, model-free methods observe state and goal and relabel goals in hindsight, reward "
    "-1 a step until the goal. Rows called 0.999 have that discount, ours for data without a goal, "
    "in place of their papers' 0.99. Curves are mean scores after a quarter, half and all of the "
    "updates; their papers make 1,000,000."
)
_PLANNED = (
    " Rows have the same data and updates; batches are 256 windows where there is no proposer and "
    "64 with one, noised twice. Differences to the first row are paired: same training seeds, same "
    "episodes. Milliseconds are medians at a batch of one, eager on one thread, environment time "
    "excluded; all rows of a dataset are timed in turn in {rounds} rounds, of which each row's "
    "fastest counts; per decision is one plan and the steps until the next over their number. "
    "Network calls are those of one plan that wait for one another: proposer, denoiser and value "
    "gradient."
)
_ONE_EPISODE = " One episode of each task: of one seed the interval is over the tasks."


def summarise(cells: Cells, target: Path, command: str) -> dict[str, Any]:
    """Write the results file and pictures of the cells that are there, and print the table.

    Raises DiffplanError where there are none.
    """
    from diffplan.scripts.report.files import write_json
    from diffplan.scripts.report.results import machine
    from diffplan.scripts.studies.pictures import draw

    study: dict[str, Any] = {}
    for source in cells.sources:
        if found := _source(cells, source):
            study[source.name] = found
    if not study:
        raise DiffplanError(
            f"{cells.out} holds no cells with these settings; run the command without --summary, "
            "or give the settings it was run with"
        )
    budget, rows = cells.budget, cells.rows.values()
    labels = list(dict.fromkeys(label for found in study.values() for label in found["rows"]))
    common = [name for name, found in study.items() if set(found["rows"]) == set(labels)]
    if len(common) > 1:  # returns of different tasks are on no scale together
        scaled = [name for name in common if study[name]["scale"] != NONE]
        common = scaled if len(scaled) > 1 else []
    seeds = sorted({s for f in study.values() for r in f["rows"].values() for s in r["seeds"]})
    tuned = [budget.tune_seed, budget.tune_seed + budget.tune_episodes - 1]
    chooses = any(row.goal_strides or row.reward_strides for row in rows)
    choices = [chosen("the replanning interval of each run", [tuned])] if chooses else []
    every = [row for found in study.values() for row in found["rows"].values()]
    runs = [run for row in every for run in row.get("tuned_on", ())]
    if ways := sorted({tuple(seeds) for run in runs for seeds in run}):
        many = " or ".join(str(row.tuned) for row in rows if row.tuned)
        choices.append(chosen(f"how tuned runs plan, {many} episodes each", ways))
    protocol = _PROTOCOL + (_MODEL_FREE if any(row.method for row in rows) else "")
    protocol += _PLANNED.format(rounds=ROUNDS) if _timed(cells) else ""
    if budget.episodes == 1 and any(source.tasks > 1 for source in cells.sources):
        protocol += _ONE_EPISODE
    report = {
        "command": command,
        "machine": machine("cpu", 1),
        "scored_on": scored(budget.seed, budget.episodes, seeds),
        "chosen_on": choices,
        "protocol": protocol,
        "study": study,
        "common": common,
        "over": _over(study, labels, common),
        "profiles": _profiles(study, labels, common),
    }
    write_json(target, report)
    pictures = draw(report, target)
    print(study_table(report))
    print("\n".join(f"wrote {path}" for path in (target, *pictures)))
    return report


def _timed(cells: Cells) -> bool:
    """Whether milliseconds say something: of planners beside each other."""
    return cells.group != "main"


def _source(cells: Cells, source: Source) -> dict[str, Any] | None:
    """All rows of one source, as far as their cells are done; None where there are none."""
    labels = [label for label in cells.rows if label not in cells.left_out[source.name]]
    found = {label: kept for label in labels if (kept := cells.of(source, label))}
    if not found:
        return None
    folder, budget = cells.folder(source), cells.budget
    file, seed = folder / "beside.json", budget.seed
    other = beside(source, file, budget.episodes, seed, others=_timed(cells))
    by, base = other["scale"], next(iter(found))
    rows = {k: _row(kept, found[base], by, source.tasks) for k, kept in found.items()}
    if _timed(cells):
        for label, measured in _times(cells, source, found).items():
            rows[label] |= measured
    others = {}
    for name, returns in other["others"].items():
        values = scores(returns, by)
        estimate = stratified_mean([values])
        others[name] = [estimate.mean, *(bounds(estimate) or ())]
    about = source.about
    data = {"identity": about.identity, **about.size}
    planner = next((row for row in cells.rows.values() if row.method is None), None)
    return {
        "env_id": about.info.env_id,
        "tasks": source.tasks,
        "data": data,
        "decided": [] if planner is None else list(source.decisions(planner)),
        "scale": by,
        "rows": rows,
        "others": others,
        "left_out": cells.left_out[source.name] if source.header is not None else {},
    }


def _row(
    cells: list[dict[str, Any]], base: list[dict[str, Any]], by: dict[str, Any], tasks: int
) -> dict[str, Any]:
    runs = [scores(cell["returns"], by) for cell in cells]
    estimate = _over_runs(runs, tasks)
    trained = [s for cell in cells if (s := cell["train_cpu_seconds"]) is not None]
    found: dict[str, Any] = {
        "mean": estimate.mean,
        "mean_ci95": bounds(estimate),
        "iqm": interquartile_mean(np.concatenate(runs)),
        "seeds": [cell["training_seed"] for cell in cells],
        "seed_scores": [float(run.mean()) for run in runs],
        "updates": cells[0]["asked"]["updates"],
        "train_cpu_seconds": sum(trained) / len(trained) if trained else None,
        "evaluation_cpu_seconds": sum(c["evaluation_cpu_seconds"] for c in cells) / len(cells),
    }
    if cells is not base:
        own = {cell["training_seed"]: cell for cell in base}
        pairs = [(c, own[s]) for c in cells if (s := c["training_seed"]) in own]
        if pairs:
            apart = [scores(a["returns"], by) - scores(b["returns"], by) for a, b in pairs]
            ahead = _over_runs(apart, tasks)
            found["difference"] = [ahead.mean, *(bounds(ahead) or ())]
    if all(cell.get("success") is not None for cell in cells):
        rate = _rate([cell["success"] for cell in cells])
        found |= {"success_rate": rate.mean, "success_ci95": bounds(rate)}
        if tasks > 1:
            told = np.array([cell["success"] for cell in cells], float)
            found["episodes"] = told.size
            found["task_success"] = told.reshape(len(cells), tasks, -1).mean((0, 2)).tolist()
    if "curve" in cells[0]:
        marks = zip(*(cell["curve"].values() for cell in cells), strict=True)
        found["curve"] = [_mean([float(scores(r, by).mean()) for r in mark]) for mark in marks]
    for key in ("replan_every", "tuned", "tuned_on", "trained_on"):
        # on a GPU or not is no matter of the row
        if has := [cell[key] for cell in cells if key in cell]:
            found[key] = has
    for key in ("network_calls", "parameters"):
        if key in cells[0]:
            found[key] = cells[0][key]
    return found


def _over_runs(runs: list[np.ndarray], tasks: int) -> Estimate:
    """Runs are the units of several, episodes within tasks those of one."""
    return runs_mean(runs) if len(runs) > 1 else stratified_mean(np.split(runs[0], tasks))


def _rate(runs: list[list[bool]]) -> Estimate:
    if len(runs) > 1:
        return pooled_rate(runs)
    return wilson(sum(runs[0]), len(runs[0]))


def _times(cells: Cells, source: Source, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Milliseconds of every row, in one go: cells were scored on days of different load."""
    from diffplan.agents import load_agent
    from diffplan.scripts.evaluate.tasks import Tasks

    agents, run = {}, Path()
    for label, kept in found.items():
        cell = next(
            c
            for c in cells.all
            if (c.source is source and c.label == label and c.seed == kept[0]["training_seed"])
        )
        run = cells.run(cell)
        if not run.is_dir():
            return {}  # the cells came alone
        # planned as in the cell, with the interval that was chosen there
        agents[label] = load_agent(run, tuned=False, **kept[0]["planning"])
    tasks = Tasks.of(next(iter(agents.values())), run, cells.budget.seed)
    return times(agents, tasks, cells.budget.seed, source.name)


def _over(study: dict[str, Any], labels: list[str], common: Sequence[str]) -> dict[str, Any]:
    """Each row over the data that all rows have."""
    found: dict[str, Any] = {}
    for label in labels if common else []:
        rows = [study[name]["rows"][label] for name in common]
        runs = [row["seed_scores"] for row in rows]
        estimate, mean = stratified_interquartile(runs), stratified_mean(runs)
        figures = {
            "iqm": estimate.mean,
            "iqm_ci95": bounds(estimate),
            "mean": mean.mean,
            "mean_ci95": bounds(mean) if any(len(run) > 1 for run in runs) else None,
            "updates": rows[0]["updates"],
            "train_cpu_seconds": _mean([row["train_cpu_seconds"] for row in rows]),
            "evaluation_cpu_seconds": _mean([row["evaluation_cpu_seconds"] for row in rows]),
            "training_seeds": min(len(run) for run in runs),
        }
        if all("curve" in row for row in rows):
            marks = zip(*(row["curve"] for row in rows), strict=True)
            figures["curve"] = [_mean(list(mark)) for mark in marks]
        if label != labels[0]:
            first = [study[name]["rows"][labels[0]]["seed_scores"] for name in common]
            ahead = improvement(first, runs)
            figures |= {"ahead": ahead.mean, "ahead_ci95": bounds(ahead)}
        found[label] = figures
    return found


def _profiles(
    study: dict[str, Any], labels: list[str], common: Sequence[str]
) -> dict[str, Any] | None:
    """Share of runs above a score, over the common data; None for a single score of each row."""
    runs = {k: [study[name]["rows"][k]["seed_scores"] for name in common] for k in labels}
    every = [score for each in runs.values() for data in each for score in data]
    if not common or len(every) <= len(labels):
        return None
    low, high = min(every), max(every)
    margin = 0.05 * (high - low) + 1e-9
    levels = np.linspace(low - margin, high + margin, 200)
    rows = {label: profile(each, levels).tolist() for label, each in runs.items()}
    return {"levels": levels.tolist(), "rows": rows}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# --- Tables --------------------------------------------------------------------------------------


def study_table(data: dict[str, Any]) -> str:
    """The tables of `diffplan study`, in Markdown: by data, over data, and what a plan costs."""
    study = data["study"]
    labels = list(dict.fromkeys(k for found in study.values() for k in found["rows"]))
    table = [
        [name, *(_cell(found["rows"].get(k)) for k in labels)] for name, found in study.items()
    ]
    header = ["data", *labels]
    if len(labels) > len(study):
        # what is longer runs down the page
        header, *table = ([*line] for line in zip(header, *table, strict=True))
        header[0] = "row"
    parts = [markdown(header, table)]
    if data["over"]:
        parts.append(_over_table(data["over"], labels[0], data["common"]))
    if any("decision_ms" in row for found in study.values() for row in found["rows"].values()):
        parts.append(_costs_table(study, labels[0]))
    if any("task_success" in row for found in study.values() for row in found["rows"].values()):
        parts.append(_tasks_table(study))
    lines = [
        f"- {name}: the mean over {found['tasks']} tasks, as many episodes in each"
        for name, found in study.items()
        if found["tasks"] > 1
    ]
    lines += [
        f"- {name}, {other}: {mean_interval(mean, ends)}"
        for name, found in study.items()
        for other, (mean, *ends) in found["others"].items()
    ]
    for name, found in study.items():
        tuned = {k: row for k, row in found["rows"].items() if "tuned" in row}
        if tuned:
            told = "; ".join(found["decided"]) or "nothing"
            lines.append(f"- {name}, decided from the data: {told}")
        lines += [
            f"- {name}, {label}: {_tunings(row['seeds'], row['tuned'])}"
            for label, row in tuned.items()
        ]
    lines += [
        f"- {name}, left out: {label} ({why})"
        for name, found in study.items()
        for label, why in found["left_out"].items()
    ]
    scales: dict[str, list[str]] = {}
    for name, found in study.items():
        scales.setdefault(found["scale"]["name"], []).append(name)
    told = "; ".join(f"{by} ({', '.join(names)})" for by, names in scales.items())
    line = seeds_line(data["scored_on"], data["chosen_on"])
    parts += ["\n".join(lines)] if lines else []
    parts.append(f"Scale of the scores: {told}. {line[0].upper()}{line[1:]}.")
    parts += _learned_on(study)
    parts += [data["protocol"]] if data["protocol"] else []
    parts.append(f"Command: `{data['command']}`. Machine: {machine_line(data)}.")
    return "\n\n".join(parts)


def _learned_on(study: dict[str, Any]) -> list[str]:
    """Which rows learned on a GPU, in which company."""
    labels: dict[str, list[str]] = {}
    calls: dict[str, dict[str, Any]] = {}
    for found in study.values():
        for label, row in found["rows"].items():
            for where in row.get("trained_on", ()):
                labels.setdefault(where["begun"], []).append(label)
                last = calls.setdefault(where["begun"], where)
                calls[where["begun"]] = max(last, where, key=lambda each: each["seconds"])
    told = [
        f"{' and '.join(map(repr, dict.fromkeys(labels[at])))} on one {call['device']} (PyTorch "
        f"{call['torch']}), {call['trainings']} at once in {call['seconds']:.0f} s"
        for at, call in calls.items()
    ]
    return [f"Trained on a GPU: {'; '.join(told)}."] if told else []


def _tunings(seeds: Sequence[int], tuned: Sequence[dict[str, Any]]) -> str:
    """What was adopted for each training seed."""
    return "; ".join(
        f"training seed {seed}: " + (", ".join(f"{k} {v}" for k, v in own.items()) or "as trained")
        for seed, own in zip(seeds, tuned, strict=True)
    )


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    text = f"{mean_interval(row['mean'], row['mean_ci95'])}; {row['iqm']:.1f}"
    success = row.get("success_rate")
    return text if success is None else f"{text}; {100 * success:.0f} % succeed"


def _over_table(over: dict[str, Any], first: str, common: Sequence[str]) -> str:
    many = f"{len(common)} sets that all rows have" if len(common) > 1 else "runs"
    header = [f"over {many}", "IQM [95 % CI]", "mean [95 % CI]"]
    header += [f"{first} ahead [95 % CI]", "training seeds", "updates", "mean on the way"]
    header += ["CPU s training", "CPU s evaluation"]
    rows = []
    for label, row in over.items():
        seconds = row["train_cpu_seconds"]
        rows.append(
            [
                label,
                mean_interval(row["iqm"], row["iqm_ci95"]),
                mean_interval(row["mean"], row["mean_ci95"]),
                mean_interval(row["ahead"], row["ahead_ci95"], 2) if "ahead" in row else "–",
                str(row["training_seeds"]),
                f"{row['updates']:,}",
                ", ".join(f"{value:.0f}" for value in row["curve"]) if "curve" in row else "–",
                "–" if seconds is None else f"{seconds:.0f}",
                f"{row['evaluation_cpu_seconds']:.0f}",
            ]
        )
    return markdown(header, rows)


def _tasks_table(study: dict[str, Any]) -> str:
    """Success of each task, in per cent, as benchmarks of several tasks print it."""
    header = ["data", "row", "success [95 % CI]", "of each task, %", "n", "training seeds"]
    rows = [
        [
            name,
            label,
            percent(row),
            ", ".join(f"{100 * share:.0f}" for share in row["task_success"]),
            str(row["episodes"]),
            ", ".join(map(str, row["seeds"])),
        ]
        for name, found in study.items()
        for label, row in found["rows"].items()
        if "task_success" in row
    ]
    return markdown(header, rows)


def _costs_table(study: dict[str, Any], first: str) -> str:
    header = ["data", "row", f"against {first} [95 % CI]", "by training seed", "success"]
    header += ["replans every", "network calls", "ms per plan", "ms per decision", "parameters"]
    header += ["CPU s training"]
    rows = []
    for name, found in study.items():
        place = name
        for label, row in found["rows"].items():
            apart, seconds = row.get("difference"), row["train_cpu_seconds"]
            rows.append(
                [
                    place,
                    label,
                    "–" if apart is None else mean_interval(apart[0], apart[1:], 1, "+"),
                    ", ".join(f"{score:.1f}" for score in row["seed_scores"]),
                    percent({"success_rate": None} | row),
                    ", ".join(map(str, row.get("replan_every", ()))) or "–",
                    str(row["network_calls"]),
                    f"{row['replan_ms']:.2f}" if "replan_ms" in row else "–",
                    f"{row['decision_ms']:.3f}" if "decision_ms" in row else "–",
                    f"{row['parameters'] / 1e6:.2f} M",
                    "–" if seconds is None else f"{seconds:.0f}",
                ]
            )
            # the name of the data once, in its first row
            place = ""
    return markdown(header, rows)
