"""The table of `diffplan study NAME ... --rows ours` on OGBench's data, beside published rows."""

from __future__ import annotations

from typing import Any

from diffplan.envs.makers.catalogue import OGBENCH
from diffplan.scripts.report.markdown import machine_line, markdown
from diffplan.scripts.report.seeds import seeds_line

METHODS = ("GCIQL", "QRL", "HIQL", "SAW", "CompDiffuser", "CDGS")
PUBLISHED: dict[str, tuple[int | None, ...]] = {
    "pointmaze-medium-stitch-v0": (21, 80, 74, 87, 100, 100),
    "pointmaze-large-stitch-v0": (31, 84, 13, 8, None, None),
    "pointmaze-giant-stitch-v0": (0, 50, 0, 0, 68, 87),
    "pointmaze-medium-navigate-v0": (53, 82, 79, 97, None, None),
    "pointmaze-large-navigate-v0": (34, 86, 58, 85, None, None),
    "pointmaze-giant-navigate-v0": (0, 68, 46, 68, None, None),
    "pointmaze-teleport-stitch-v0": (None,) * 6,
    "pointmaze-teleport-navigate-v0": (None,) * 6,
    "antmaze-medium-stitch-v0": (29, 59, 94, 96, None, None),
    "antmaze-large-stitch-v0": (7, 18, 67, 66, 86, 88),
    "antmaze-giant-stitch-v0": (0, 0, 2, 1, 65, 85),
    "antmaze-medium-navigate-v0": (71, 88, 96, 97, None, None),
    "antmaze-large-navigate-v0": (34, 75, 91, 90, None, None),
    "antmaze-giant-navigate-v0": (0, 14, 65, 73, None, None),
    "antmaze-medium-explore-v0": (13, 1, 37, 25, None, None),
    "antmaze-large-explore-v0": (0, 0, 4, 6, None, None),
    "cube-single-play-v0": (68, 5, 44, 72, None, None),
    "cube-double-play-v0": (40, 1, 6, 40, None, None),
    "scene-play-v0": (51, 5, 38, 63, 13, 51),
    "puzzle-3x3-play-v0": (None,) * 6,
}
"""Success, %, of METHODS, of the official data and 8 seeds: SAW's tables, CompDiffuser, CDGS."""


def ogbench_table(data: dict[str, Any]) -> str:
    """Ours beside what is published; a dash is not measured, or not at hand."""
    study = data["study"]
    rows = []
    for name, published in PUBLISHED.items():
        row = study[name]["rows"]["ours"] if name in study else None
        cells = ["–"] * 5
        if row is not None:
            low, high = (100 * end for end in row["success_ci95"])
            rate = f"{100 * row['success_rate']:.0f} [{low:.0f}, {high:.0f}]"
            tasks = ", ".join(f"{100 * share:.0f}" for share in row["task_success"])
            best = max((known for known in published if known is not None), default=101)
            cells = [
                f"**{rate}**" if 100 * row["success_rate"] >= best else rate,
                tasks,
                f"{(seeds := len(row['seeds']))} × {row['episodes'] // seeds}",
                f"{row['decision_ms']:.2f}" if "decision_ms" in row else "–",
                "–" if (s := row["train_cpu_seconds"]) is None else f"{s:.0f}",
            ]
        rows.append(
            [name + _part(name, study), *cells, *("–" if p is None else str(p) for p in published)]
        )
    header = [
        "data",
        "ours [95 % CI]",
        "tasks 1 to 5",
        "seeds × episodes",
        "ms a decision",
        "CPU s",
    ]
    line = seeds_line(data["scored_on"], data["chosen_on"])
    return (
        f"{markdown([*header, *METHODS], rows)}\n\n{line[0].upper()}{line[1:]}.\n\nCommand: "
        f"`{data['command']}`. Machine: {machine_line(data)}."
    )


def _part(name: str, study: dict[str, Any]) -> str:
    """How much of the data there is, where it is not as much as in the official file."""
    made = study.get(name, {}).get("data", {}).get("episodes")
    whole = OGBENCH[name].episodes
    return "" if made in (None, whole) else f", {made:,} of {whole:,} episodes"
