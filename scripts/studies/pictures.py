"""Pictures of a study: scores with intervals, performance profiles, score against cost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from diffplan.scripts.report.pictures import CANDIDATE, PLAN, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AGAINST = {
    "decision_ms": ("milliseconds per decision, eager, one thread", "time"),
    "network_calls": ("network calls of a plan", "calls"),
}
_MARKS = "osD^v<>Pp*hX"
_LEFT: Any = ("axes fraction", "data")  # where a line across the panel gets its name


def draw(data: dict[str, Any], target: Path) -> list[Path]:
    """Write STEM.png beside the results, -profile.png, and of timed rows -time.png and -calls.png.

    Returns them; each has a PDF beside it.
    """
    written = [target.with_suffix(".png")]
    _intervals(data, written[0])
    if data["profiles"] is not None:
        written.append(target.with_name(f"{target.stem}-profile.png"))
        _profiles(data, written[-1])
    rows = [row for found in data["study"].values() for row in found["rows"].values()]
    if all("decision_ms" in row for row in rows):
        for key, (title, suffix) in _AGAINST.items():
            written.append(target.with_name(f"{target.stem}-{suffix}.png"))
            _against(data, key, title, written[-1])
    return written


def _intervals(data: dict[str, Any], path: Path) -> None:
    """A panel of intervals for each set of data and one over those that all rows have."""
    panels: dict[str, dict[str, Any]] = {n: found["rows"] for n, found in data["study"].items()}
    labels = list(dict.fromkeys(label for rows in panels.values() for label in rows))
    if len(data["common"]) > 1:
        panels[f"{len(data['common'])} sets that all have"] = data["over"]
    lines = -(-len(panels) // 5)
    columns = -(-len(panels) // lines)  # as even as it goes
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
                row, colour = rows[label], PLAN if place == 0 else CANDIDATE
                if row["mean_ci95"] is not None:
                    ends = row["mean_ci95"]
                    axes.plot(
                        ends,
                        [place, place],
                        color=colour,
                        linewidth=5,
                        alpha=0.4,
                        solid_capstyle="butt",
                    )
                axes.plot(row["mean"], place, "o", color=colour, markersize=4)
            _frame(axes, [row["mean"] for row in rows.values()])
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_title(name, loc="left", fontsize=9)
        figure.supxlabel(
            f"{_score(data['study'].values())}: mean, bars: 95 % intervals, as far as panels go",
            fontsize=9,
        )
        save(figure, path)


def _frame(axes: Axes, means: list[float]) -> None:
    """By the means: an interval over few seeds may be wider than all that there is to see.

    At least a twentieth of the scores, so that a hair's breadth looks like one.
    """
    low, high = min(means), max(means)
    missing = max(0.0, 0.05 * max(map(abs, means)) - (high - low))
    margin = missing / 2 + 0.15 * (high - low + missing)
    axes.set_xlim(low - margin, high + margin)


def _score(found: Iterable[dict[str, Any]]) -> str:
    """What scores of these data are, for an axis."""
    kinds = {_unit(each["scale"]["name"]) for each in found}
    if len(kinds) == 1:
        return kinds.pop()
    return "score, or return" if "return" in kinds else "score"


def _unit(scale: str) -> str:
    if scale.startswith("D4RL"):
        return "score on D4RL's scale"
    return "return" if scale.startswith("none") else "score"


def _profiles(data: dict[str, Any], path: Path) -> None:
    """For every score, the share of each row's runs that lie above it."""
    levels, rows = data["profiles"]["levels"], data["profiles"]["rows"]
    with style():
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.subplots()
        for place, (label, shares) in enumerate(rows.items()):
            width = 2.5 if place == 0 else 1.3
            axes.plot(levels, shares, color=_colour(place), linewidth=width, label=label)
        axes.set(
            xlabel=_score(data["study"].values()), ylabel="share of runs above", ylim=(-0.02, 1.02)
        )
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize=8)
        save(figure, path)


def _colour(place: int) -> Any:
    return colormaps["tab20"](place % 20)


def _against(data: dict[str, Any], key: str, title: str, path: Path) -> None:
    """Scores against what they cost, a panel for each set of data."""
    study = data["study"]
    labels = list(dict.fromkeys(k for found in study.values() for k in found["rows"]))
    columns = min(2, len(study))
    lines = -(-len(study) // columns)
    with style():
        figure = Figure(figsize=(5 * columns, 0.9 + 3.4 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes in panels[len(study) :]:
            axes.set_axis_off()
        for axes, (name, found) in zip(panels, study.items(), strict=False):
            _panel(axes, name, found, key, labels)
        figure.supxlabel(f"{title} (bars: 95 % intervals)", fontsize=9)
        # a row that the first data have not still has its entry
        entries = {
            label: handle
            for axes in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        handles, names = entries.values(), entries.keys()
        figure.legend(handles, names, loc="outside upper center", ncols=2 * columns, fontsize=8)
        save(figure, path)


def _panel(axes: Axes, name: str, found: dict[str, Any], key: str, labels: list[str]) -> None:
    for place, label in enumerate(labels):
        if label not in found["rows"]:
            continue
        row = found["rows"][label]
        low, high = row["mean_ci95"] or (row["mean"], row["mean"])
        axes.errorbar(
            # a plan that needs no network still has its place on a logarithmic axis
            max(row[key], 1e-3),
            row["mean"],
            [[row["mean"] - low], [high - row["mean"]]],
            fmt=_MARKS[place % len(_MARKS)],
            color=_colour(place),
            label=label,
            capsize=2,
        )
    if found["others"]:
        # the best of what made the data is the line to beat
        best = max(found["others"], key=lambda other: found["others"][other][0])
        height = found["others"][best][0]
        axes.axhline(height, color="0.5", linestyle="--", linewidth=1)
        axes.annotate(best, (0.99, height), xycoords=_LEFT, fontsize=7, va="bottom", ha="right")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(ylabel=_unit(found["scale"]["name"]))
    axes.set_title(name, loc="left", fontsize=10)
