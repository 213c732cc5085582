"""What tables and lines are written with."""

from __future__ import annotations

from typing import Any


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    align = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


def mean_interval(mean: float, bounds: list[float] | None, digits: int = 1, sign: str = "") -> str:
    """A mean with its bounds, where there are any."""
    text = f"{mean:{sign}.{digits}f}"
    if bounds and None not in bounds:
        text += f" [{bounds[0]:{sign}.{digits}f}, {bounds[1]:{sign}.{digits}f}]"
    return text


def percent(row: dict[str, Any]) -> str:
    """The success rate of a row with its interval, a dash without one."""
    if row["success_rate"] is None:
        return "–"
    low, high = row["success_ci95"]
    return f"{100 * row['success_rate']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def milliseconds(value: float | None) -> str:
    """Two digits, a dash for None."""
    return "–" if value is None else f"{value:.2f}"


def machine_line(data: dict[str, Any]) -> str:
    """The processor and the versions that a report was measured with."""
    found = data["machine"]
    return (
        f"{found['cpu']}, {found['threads']} thread, PyTorch {found['versions']['torch']}, "
        f"MuJoCo {found['versions']['mujoco']}"
    )


def duration(seconds: float) -> str:
    """In words."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
