"""Pictures of an evaluation: plans in a maze or over time, returns, training curves."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from diffplan.data.info import ObservationLayout
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.mazes import Maze
from diffplan.errors import DiffplanError
from diffplan.scripts.report.files import written_whole
from diffplan.scripts.report.intervals import estimate_mean

if TYPE_CHECKING:
    from diffplan.engines.decision import Plan

# Okabe and Ito's palette: told apart with any kind of colour vision, and line styles differ too.
EXECUTED = "#0072B2"
PROPOSAL = "#E69F00"
PLAN = "#D55E00"
CANDIDATE = "#666666"
GOAL = "#009E73"
AIM = "#CC79A7"
START = "#000000"
WALL = "#C4C4C4"
_BAND: Any = {"linewidth": 6, "alpha": 0.35, "solid_capstyle": "round"}

_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.bbox": "tight",  # nothing is cut off, whatever its length
    "pdf.fonttype": 42,  # text stays text
}


def style() -> AbstractContextManager[None]:
    """Context manager with the fonts and sizes of every picture here."""
    return rc_context(_STYLE)


def positions(states: np.ndarray, layout: ObservationLayout) -> np.ndarray:
    """Columns of states [..., D] that are the position in the maze, [..., 2]."""
    return states[..., list(layout.goal_columns[:2] or (0, 1))]


def draw_maze(axes: Axes, maze: Maze) -> None:
    """Walls as grey cells, half of the border left out; environment units, no ticks."""
    half = maze.scale / 2
    for row in range(len(maze.rows)):
        for column in range(len(maze.rows[0])):
            if not maze.is_free((row, column)):
                x, y = maze.centre((row, column))
                axes.add_patch(
                    Rectangle(
                        (x - half, y - half), maze.scale, maze.scale, facecolor=WALL, linewidth=0
                    )
                )
    # walls around the maze say nothing: half a cell of them is enough
    width, height = (len(maze.rows[0]) - 1) * half, (len(maze.rows) - 1) * half
    x, y = maze.middle
    axes.set(xlim=(x - width, x + width), ylim=(y - height, y + height))
    axes.set(aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def plans_in_maze(
    path: Path,
    traces: Sequence[Trace],
    layout: ObservationLayout,
    maze: Maze,
    aims: Sequence[np.ndarray] = (),
) -> None:
    """Write two panels per episode: all of it in the maze, and one plan from close by.

    aims: of each episode the positions [N, 2] that its plans aimed at, where not at the goal.
    The plan shown from close by is the one that optimisation moved most, framed in the maze.
    """
    ratio = (len(maze.rows) - 1) / (len(maze.rows[0]) - 1)
    with style():
        size = (3.7 * len(traces), 3.7 * (ratio + 1) + 1.7)
        figure = Figure(figsize=size, layout="constrained")
        heights = {"height_ratios": [ratio, 1]}
        panels = figure.subplots(2, len(traces), squeeze=False, gridspec_kw=heights)
        for (whole, near), trace in zip(panels.T, traces, strict=True):
            draw_episode(whole, trace, layout, maze)
            _draw_closest(whole, near, trace, layout, maze)
        for whole, points in zip(panels[0], aims, strict=False):
            whole.plot(*points.T, "D", color=AIM, markersize=5, markeredgecolor="white", zorder=5)
        several = any(len(plan.candidates) > 1 for trace in traces for plan in trace.plans.values())
        _legend(figure, _maze_entries(several, aimed=any(map(len, aims))))
        save(figure, path)


def draw_episode(axes: Axes, trace: Trace, layout: ObservationLayout, maze: Maze) -> None:
    """The maze, the whole path and every plan made on the way to the goal."""
    draw_maze(axes, maze)
    states, goals = layout.split(trace.observations)
    walked = positions(states, layout)
    axes.plot(*walked.T, color=EXECUTED, **_BAND)
    for plan in _under_way(trace).values():
        axes.plot(*positions(plan.states, layout).T, color=PLAN, linewidth=1.1)
    axes.plot(*walked[0], "o", color=START, markersize=8, markeredgecolor="white", zorder=6)
    if goals is not None:
        axes.plot(*goals[0, :2], "*", color=GOAL, markersize=17, markeredgecolor="white", zorder=6)
    axes.set_title(f"seed {trace.seed}, return {trace.rewards.sum():.0f}\n{_outcome(trace)}")


def _outcome(trace: Trace) -> str:
    if trace.success_step is not None:
        return f"goal reached at step {trace.success_step}"
    return f"goal not reached in {len(trace.rewards)} steps"


def _draw_closest(
    whole: Axes, near: Axes, trace: Trace, layout: ObservationLayout, maze: Maze
) -> None:
    """Frame one plan in the panel `whole` and draw it large in the panel `near`."""
    # the plan that shows best what optimisation does
    under_way = _under_way(trace)
    if not under_way:
        near.set_axis_off()
        return
    made = max(under_way, key=lambda step: _moved(under_way[step], layout))
    plan = under_way[made]
    draw_maze(near, maze)
    near.plot(*positions(layout.split(trace.observations)[0], layout).T, color=EXECUTED, **_BAND)
    draw_plan(near, plan, layout)
    # the frame holds all candidates, not the chosen one alone
    shown = [plan.states, plan.proposal[plan.chosen], *plan.candidates]
    points = np.concatenate([positions(states, layout) for states in shown])
    low, high = points.min(0), points.max(0)
    # at least a cell, or walls would be out of sight
    half = 0.55 * max(float((high - low).max()), maze.scale)
    x, y = (low + high) / 2
    near.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    near.set_title(f"framed: the plan made at step {made}")
    frame: Any = {"fill": False, "edgecolor": START, "linewidth": 0.9, "zorder": 7}
    whole.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, **frame))
    for spine in near.spines.values():
        spine.set_visible(True)


def _under_way(trace: Trace) -> dict[int, Plan]:
    """Plans made before the goal was reached: afterwards the ball only hovers."""
    end = len(trace.rewards) if trace.success_step is None else trace.success_step
    return {step: plan for step, plan in trace.plans.items() if step < end}


def _moved(plan: Plan, layout: ObservationLayout) -> float:
    """Largest distance between a state of the plan and the same state of its proposal."""
    difference = positions(plan.states - plan.proposal[plan.chosen], layout)
    return float(np.linalg.norm(difference, axis=-1).max())


def draw_plan(axes: Axes, plan: Plan, layout: ObservationLayout) -> list[Line2D]:
    """Candidates faint, proposal of the chosen one dashed, the plan itself with its states."""
    lines = []
    if len(plan.candidates) > 1:
        for candidate in plan.candidates:
            xy = positions(candidate, layout)
            lines += axes.plot(*xy.T, color=CANDIDATE, linewidth=0.9, alpha=0.6, zorder=3)
    proposal = positions(plan.proposal[plan.chosen], layout)
    lines += axes.plot(*proposal.T, "--", color=PROPOSAL, linewidth=2, zorder=4)
    states = positions(plan.states, layout)
    lines += axes.plot(*states.T, "-o", color=PLAN, linewidth=1.6, markersize=2.6, zorder=5)
    return lines


def plans_over_time(
    path: Path,
    traces: Sequence[Trace],
    layout: ObservationLayout,
    stride: int,
    *,
    dimensions: int = 6,
    steps: int = 100,
) -> None:
    """Write planned and executed state of the first episode, one panel per dimension.

    Shows `dimensions` columns of the state, those of the goal first, over the first `steps` steps;
    plan states lie `stride` environment steps apart.
    """
    trace = traces[0]
    states, goals = layout.split(trace.observations)
    states = states[: steps + 1]
    known = [] if goals is None else goals[0].tolist()
    # of a goal that is no part of the state nothing can be drawn
    goal = dict(zip(layout.goal_columns, known, strict=False))
    shown = [*goal, *(column for column in range(states.shape[-1]) if column not in goal)]
    shown = shown[:dimensions]
    plans = {step: plan for step, plan in trace.plans.items() if step < len(states) - 1}
    with style():
        figure, panels = _grid(len(shown), 2, (5.5, 2.1), extra=0.8)
        for column, axes in zip(shown, panels, strict=True):
            axes.plot(states[:, column], color=EXECUTED, linewidth=2.4, alpha=0.85)
            for step, plan in plans.items():
                times = step + stride * np.arange(len(plan.states))
                proposal = plan.proposal[plan.chosen]
                axes.plot(times, proposal[:, column], "--", color=PROPOSAL, linewidth=1, alpha=0.8)
                axes.plot(times, plan.states[:, column], color=PLAN, linewidth=1)
                axes.plot(step, plan.states[0, column], "o", color=PLAN, markersize=3)
            axes.set_ylabel(f"state {column}")
            axes.set_xlim(0, len(states) - 1)
            # plans may leave the panel, the executed path and the goal may not
            seen = states[:, column]
            if column in goal:
                axes.axhline(goal[column], color=GOAL, linestyle="--", linewidth=1.4)
                seen = np.append(seen, goal[column])
            _limit_to(axes, seen)
        for axes in panels[-2:]:
            axes.set_xlabel("environment step")
        title = f"seed {trace.seed}, return {trace.rewards.sum():.0f}"
        entries = [
            Line2D([], [], color=EXECUTED, linewidth=2.4, label="executed"),
            Line2D([], [], color=PROPOSAL, linestyle="--", label="proposals"),
            Line2D([], [], color=PLAN, marker="o", markersize=3, label="plans, from their dot"),
        ]
        if goal:
            title += f", {_outcome(trace)}"
            entries.append(Line2D([], [], color=GOAL, linestyle="--", label="goal"))
        figure.suptitle(title, fontsize=11)
        _legend(figure, entries)
        save(figure, path)


def errands_over_time(
    path: Path,
    traces: Sequence[Trace],
    distances: Sequence[np.ndarray],
    now: Sequence[np.ndarray],
    names: Sequence[str],
) -> None:
    """Write how far each thing is from its goal, and which one is being moved.

    One column for each episode, one row for each thing. distances: of each episode [T+1, K], in
    deviations. now: of each episode the thing [T+1] that is being moved. names: of the K things.
    """
    with style():
        size = (4.2 * len(traces) + 1, 1.15 * len(names) + 1.5)
        figure = Figure(figsize=size, layout="constrained")
        options: Any = {"squeeze": False, "sharex": "col", "sharey": "row"}
        panels = figure.subplots(len(names), len(traces), **options)
        for column, trace in zip(panels.T, traces, strict=True):
            column[0].set_title(f"seed {trace.seed}, {_outcome(trace)}")
            column[-1].set_xlabel("environment step")
        for episode, (far, moving) in enumerate(zip(distances, now, strict=True)):
            turns = [0, *(np.flatnonzero(np.diff(moving)) + 1), len(moving) - 1]
            for thing, name in enumerate(names):
                axes = panels[thing, episode]
                for first, last in pairwise(turns):
                    if moving[first] == thing and last > first:
                        axes.axvspan(first, last, color=AIM, alpha=0.3, linewidth=0)
                axes.plot(far[:, thing], color=EXECUTED, linewidth=1.8)
                axes.axhline(0, color=GOAL, linewidth=1, linestyle="--")
                axes.set_xlim(0, max(len(far) - 1, 1))
                if not episode:
                    axes.set_ylabel(name)
        entries = [
            Line2D([], [], color=EXECUTED, linewidth=1.8, label="from its goal, deviations"),
            Line2D([], [], color=AIM, linewidth=8, alpha=0.3, label="being moved"),
            Line2D([], [], color=GOAL, linestyle="--", label="goal"),
        ]
        _legend(figure, entries)
        save(figure, path)


def _limit_to(axes: Axes, values: np.ndarray) -> None:
    """Scale to what happened, so that one wild plan does not flatten the panel."""
    margin = 0.75 * (np.ptp(values) or 1.0)
    axes.set_ylim(values.min() - margin, values.max() + margin)


def returns_picture(path: Path, returns: Mapping[str, np.ndarray]) -> None:
    """Write one strip per policy: a dot per episode, the mean and its 95 % interval."""
    with style():
        figure = Figure(figsize=(8, 0.75 * len(returns) + 1.3), layout="constrained")
        axes = figure.subplots()
        # dots are spread at random, but the same in every drawing
        rng = np.random.default_rng(0)
        for place, values in enumerate(returns.values()):
            heights = place + rng.uniform(-0.22, 0.22, len(values))
            axes.plot(values, heights, "o", color=EXECUTED, alpha=0.35, markersize=4.5, mew=0)
            mean = estimate_mean(values)
            axes.plot([mean.low, mean.high], [place, place], color=START, linewidth=3.5)
            axes.plot(mean.mean, place, "D", color=PLAN, markeredgecolor="white", markersize=7)
        labels = [
            f"{name.replace('_', ' ')}\nmean {values.mean():.1f}"
            for name, values in returns.items()
        ]
        axes.set_yticks(range(len(returns)), labels)
        axes.set_ylim(len(returns) - 0.5, -0.5)
        axes.set_xlabel("return of one episode")
        axes.grid(axis="x", alpha=0.3)
        entries = [
            Line2D([], [], color=EXECUTED, marker="o", linestyle="", alpha=0.5, label="episode"),
            Line2D([], [], color=PLAN, marker="D", linestyle="", markersize=8, label="mean"),
            Line2D([], [], color=START, linewidth=3.5, label="its 95 % interval"),
        ]
        _legend(figure, entries)
        save(figure, path)


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curves of a metrics.jsonl: name -> (steps [n], values [n]) for loss/... and error/... names.

    A line cut short by a kill is left out; where a resumed run wrote a step again, the later
    line counts.
    """
    points: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        try:
            # the last line of a run that was killed may be half a line
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError):
            continue
        for name, value in record.items():
            if name.startswith(("loss/", "error/")) and isinstance(value, int | float):
                points.setdefault(name, {})[step] = float(value)
    return {
        name: (np.array(sorted(curve)), np.array([curve[step] for step in sorted(curve)]))
        for name, curve in points.items()
    }


def training_curves(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write one panel per loss and error; logarithmic where a positive curve spans a decade."""
    names = sorted(curves, key=lambda name: (not name.startswith("loss/"), name))
    with style():
        figure, panels = _grid(len(names), 3, (4.2, 2.8))
        for name, axes in zip(names, panels, strict=True):
            steps, values = curves[name]
            # about forty means over a curve: trends show, spikes stay behind them
            smooth = _running_mean(values, max(1, len(values) // 40))
            rough = not np.array_equal(smooth, values)
            axes.plot(steps, values, color=EXECUTED, linewidth=1, alpha=0.3 if rough else 1)
            if rough:
                axes.plot(steps, smooth, color=EXECUTED, linewidth=1.8)
            finite = values[np.isfinite(values)]
            # within one decade a logarithm only bends the curve
            if len(finite) and finite.min() > 0 and finite.max() > 10 * finite.min():
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            elif len(finite) and finite.min() <= 0:
                # no logarithm here, and the first losses would flatten all that follows
                _limit_to(axes, finite[len(finite) // 10 :])
            axes.set_title(name.replace("/", ": ", 1).replace("_", " "))
            axes.set_xlabel("update")
            axes.grid(alpha=0.3)
        save(figure, path)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over about `width` values around each one (fewer at the ends), [n]."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    here = np.arange(len(values))
    begins = np.maximum(0, here - width // 2)
    ends = np.minimum(len(values), here + width // 2 + 1)
    return (sums[ends] - sums[begins]) / (ends - begins)


def _maze_entries(candidates: bool, aimed: bool) -> list[Line2D]:
    entries = [
        Line2D([], [], color=START, marker="o", linestyle="", markersize=8, label="start"),
        Line2D([], [], color=GOAL, marker="*", linestyle="", markersize=14, label="goal"),
        Line2D([], [], color=EXECUTED, label="executed path", **_BAND),
        Line2D([], [], color=PLAN, marker="o", markersize=3, label="optimised plan, followed"),
        Line2D([], [], color=PROPOSAL, linestyle="--", linewidth=2, label="its proposal"),
    ]
    if candidates:
        label = "other candidates"
        entries.append(Line2D([], [], color=CANDIDATE, linewidth=0.9, alpha=0.8, label=label))
    if aimed:
        entries.append(
            Line2D([], [], color=AIM, marker="D", linestyle="", label="subgoal of a plan")
        )
    return entries


def _grid(
    count: int, columns: int, size: tuple[float, float], extra: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of `size` inches, `extra` inches of height for a legend."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figsize = (size[0] * columns, size[1] * rows + extra)
    figure = Figure(figsize=figsize, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _legend(figure: Figure, entries: Sequence[Line2D]) -> None:
    figure.legend(handles=list(entries), loc="outside lower center", ncols=min(4, len(entries)))


def save(figure: Figure, path: Path) -> None:
    """Save in the format that `path` is named after, and as PDF beside it, for papers.

    Each is written beside its place and renamed, so no half picture is ever seen. Raises
    DiffplanError where there is no such format, or nothing can be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise DiffplanError(f"cannot write the picture {path}: name it .png, .svg or .pdf")
    try:
        for format in dict.fromkeys((kind, "pdf")):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=format)
            with written_whole(path if format == kind else path.with_suffix(".pdf")) as partial:
                partial.write_bytes(buffer.getvalue())
    except OSError as error:
        raise DiffplanError(f"cannot write the picture {path}: {error}") from None
