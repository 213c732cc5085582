"""The picture of `diffplan benchmark`: where the time goes, and cost against batch and horizon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from diffplan.engines import DIRECT
from diffplan.scripts.benchmark.report import STAGES, place_name
from diffplan.scripts.report.pictures import (
    CANDIDATE,
    EXECUTED,
    GOAL,
    PLAN,
    PROPOSAL,
    START,
    save,
    style,
)

_COLOURS = dict(zip((*STAGES, "host"), (PROPOSAL, PLAN, GOAL, EXECUTED, "#BBBBBB"), strict=True))
_CURVES = (EXECUTED, PLAN, GOAL, PROPOSAL, "#CC79A7", "#56B4E9", CANDIDATE)
_MARKERS = "osDv^P*"
_OVER = {"batch": "batch, environments in one call", "horizon": "horizon, states of a plan"}


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the picture of a report: one column for each of batch and horizon that was varied."""
    over = [name for name in _OVER if len(_along(data, name, _own_place(data, DIRECT))) > 1]
    columns = over or ["batch"]
    with style():
        figure = Figure(figsize=(6.4 * len(columns), 8.6), layout="constrained")
        panels = figure.subplots(2, len(columns), squeeze=False)
        for place, name in enumerate(columns):
            _stacked(panels[0][place], data, name)
            _curves(panels[1][place], data, name)
        figure.suptitle(f"{data['label']}\n{data['warning']}", fontsize=11)
        entries = [
            Line2D([], [], color=colour, linewidth=8, label=name)
            for name, colour in _COLOURS.items()
        ]
        figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
        save(figure, path)


def _own_place(data: dict[str, Any], engine: str | None = None) -> tuple[str, str, int]:
    own = data["own"]
    return engine or own["engine"], own["device"], own["threads"]


def _along(data: dict[str, Any], name: str, place: tuple[str, str, int]) -> list[dict[str, Any]]:
    """Cases of one engine and place that differ from the own settings in `name` alone."""
    engine, device, threads = place
    wanted = data["own"] | {"engine": engine, "device": device, "threads": threads}
    found = [
        row
        for row in data["cases"]
        if all(row[key] == value for key, value in wanted.items() if key != name)
    ]
    return sorted(found, key=lambda row: row[name])


def _stacked(axes: Axes, data: dict[str, Any], name: str) -> None:
    """Share of each stage of the eager engine, one bar for each value."""
    rows = [row for row in _along(data, name, _own_place(data, DIRECT)) if "stages_ms" in row]
    for height, row in enumerate(rows):
        parts = {**row["stages_ms"], "host": row["host_ms"]}
        total, left = sum(parts.values()), 0.0
        for stage, ms in parts.items():
            share = 100 * ms / total
            axes.barh(height, share, left=left, color=_COLOURS[stage], height=0.72)
            # a figure in a narrower bar would not fit
            if share > 9:
                axes.text(left + share / 2, height, _ms(ms), ha="center", va="center", fontsize=8)
            left += share
        axes.text(101.5, height, f"{_ms(row['replan_ms_median'])} ms", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [str(row[name]) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of a decision with a new plan (figures in ms)")
    axes.set_ylabel(_OVER[name])
    axes.set_title(f"where the time goes by {name}, engine {DIRECT}", loc="left")


def _curves(axes: Axes, data: dict[str, Any], name: str) -> None:
    """Cost of each engine, its straight line dashed, and a ring where it ends."""
    places = list(
        dict.fromkeys((row["engine"], row["device"], row["threads"]) for row in data["cases"])
    )
    # one place for all: the engine alone tells the curves apart
    several = len({place[1:] for place in places}) > 1
    ticks: set[int] = set()
    for number, place in enumerate(places):
        rows = _along(data, name, place)
        if not rows:
            continue
        colour = _CURVES[number % len(_CURVES)]
        x, ms = [row[name] for row in rows], [row["replan_ms_median"] for row in rows]
        ticks.update(x)
        label = f"{place[0]}, {place_name(*place[1:])}" if several else place[0]
        axes.plot(
            x, ms, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=5, label=label
        )
        _straight(axes, data, name, place, colour, x)
    axes.set(xscale="log", yscale="log", ylabel="ms a decision with a new plan")
    axes.set_xlabel(_OVER[name])
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color=CANDIDATE, linestyle="--"))
    labels.append("straight: fixed + per unit")
    ring: Any = {"linestyle": "", "marker": "o", "markersize": 13, "markerfacecolor": "none"}
    handles.append(Line2D([], [], color=START, **ring))
    labels.append("here the straight line ends")
    axes.legend(handles, labels, fontsize=9, loc="upper left")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (0.07 * len(labels)))  # room for the legend
    axes.set_title(f"cost against {name}", loc="left")


def _straight(
    axes: Axes,
    data: dict[str, Any],
    name: str,
    place: tuple[str, str, int],
    colour: str,
    x: list[int],
) -> None:
    engine, where = place[0], place_name(*place[1:])
    for line in data["lines"]:
        if (line["over"], line["engine"], line["place"]) != (name, engine, where):
            continue
        if line["first"] is None:
            continue
        along = np.geomspace(x[0], x[-1], 60)
        straight = line["fixed_ms"] + line["slope_ms"] * along
        axes.plot(along, straight, "--", color=colour, linewidth=1, alpha=0.8)
        # where the line ends with the measurements, nothing bends
        for end in {line["first"], line["last"]} - {x[0], x[-1]}:
            height = line["fixed_ms"] + line["slope_ms"] * end
            axes.plot(end, height, "o", markersize=13, color=START, markerfacecolor="none")


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
