"""What `diffplan survey` found: its table, and score against time and against network calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AGAINST = {
    "decision_ms": ("ms per decision, eager, one thread", "time"),
    "network_calls": ("network calls of a plan", "calls"),
}

_LEFT: Any = ("axes fraction", "data")  # where a line across the panel gets its name


def _score(row: dict[str, Any]) -> tuple[float, list[float]]:
    if "normalised_score" in row:
        return row["normalised_score"], row["normalised_ci95"]
    return row["return_mean"], row["return_ci95"]


def survey_table(data: dict[str, Any]) -> str:
    """The table of `diffplan survey`, in Markdown."""
    header = ["data", "row", "score or return [95 % CI]", "by training seed", "success"]
    header += [
        "replans every",
        "network calls",
        "ms per plan",
        "ms per decision",
        "parameters",
        "training",
    ]
    lines = [
        "| " + " | ".join(header) + " |",
        "| --- | --- |" + " --: |" * (len(header) - 2),
    ]
    for name, found in data["survey"].items():
        place = name
        for label, row in found["rows"].items():
            mean, (low, high) = _score(row)
            success = row.get("success_rate")
            cells = [
                place,
                label,
                f"{mean:.1f} [{low:.1f}, {high:.1f}]",
                ", ".join(f"{value:.0f}" for value in row["seed_means"]),
                "–" if success is None else f"{100 * success:.0f} %",
                ", ".join(map(str, row["replan_every"])),
                str(row["network_calls"]),
                f"{row['replan_ms']:.2f}",
                f"{row['decision_ms']:.3f}",
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['train_seconds']:.0f} s",
            ]
            lines.append("| " + " | ".join(cells) + " |")
            # the name of the data once, in its first row
            place = ""
    others = "\n".join(
        f"- {name}, {other}: return {mean:.1f} [{low:.1f}, {high:.1f}]"
        for name, found in data["survey"].items()
        for other, (mean, low, high) in found["others"].items()
    )
    machine = data["machine"]
    return (
        "\n".join(lines)
        + "\n\nScores are on D4RL's scale where it has one for the task; training seeds are given "
        f"as returns.\n\n{others}\n\n{data['protocol']}\n\nCommand: `{data['command']}`. Machine: "
        f"{machine['cpu']}, {machine['threads']} thread, PyTorch {machine['versions']['torch']}, "
        f"MuJoCo {machine['versions']['mujoco']}."
    )


def draw(data: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    """Write FOLDER/STEM-time.png and -calls.png, a panel per dataset; returns their paths."""
    from matplotlib.figure import Figure

    from diffplan.scripts.report.pictures import save, style

    written = []
    labels = list(dict.fromkeys(k for found in data["survey"].values() for k in found["rows"]))
    for key, (title, suffix) in _AGAINST.items():
        with style():
            count = len(data["survey"])
            columns = min(2, count)
            rows = -(-count // columns)
            figure = Figure(figsize=(5 * columns, 0.9 + 3.4 * rows), layout="constrained")
            panels = figure.subplots(rows, columns, squeeze=False).flatten()
            for axes in panels[count:]:
                axes.set_axis_off()
            for axes, (name, found) in zip(panels, data["survey"].items(), strict=False):
                _panel(axes, name, found, key, labels)
            figure.supxlabel(f"{title} (bars: 95 % intervals)", fontsize=9)
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper center", ncols=2 * columns, fontsize=8)
            path = folder / f"{stem}-{suffix}.png"
            save(figure, path)
        written.append(path)
    return written


def _panel(axes: Axes, name: str, found: dict[str, Any], key: str, labels: list[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter

    marks = "osD^v<>Pp*hX"
    for place, label in enumerate(labels):
        if label not in found["rows"]:
            continue
        row = found["rows"][label]
        mean, (low, high) = _score(row)
        axes.errorbar(
            # a plan that needs no network still has its place on a logarithmic axis
            max(row[key], 1e-3),
            mean,
            [[mean - low], [high - mean]],
            fmt=marks[place % len(marks)],
            color=colormaps["tab20"](place % 20),
            label=label,
            capsize=2,
        )
    others = found["others"]
    scaled = any("normalised_score" in row for row in found["rows"].values())
    if others and not scaled:
        # the best of what made the data is the line to beat
        best = max(others, key=lambda other: others[other][0])
        axes.axhline(others[best][0], color="0.5", linestyle="--", linewidth=1)
        axes.annotate(best, (0.01, others[best][0]), xycoords=_LEFT, fontsize=7, va="bottom")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{name}, {'score' if scaled else 'return'}", loc="left", fontsize=10)
