"""Tables in docs/*.md from the JSON files beside them, and of the presets.

    python -m diffplan.scripts.checks.tables            # rewrite the tables
    python -m diffplan.scripts.checks.tables --check    # exit with 1 if one is out of date

A table stands between `<!-- table: results/x.json -->` and `<!-- end -->`; `presets`,
`kinds` and `baselines` instead of a file are those of `diffplan.config`. With a `*` in its name the
files of one run each of `diffplan benchmark` become the rows of one table; of a study's file with
`brief:` before it stand the scores alone. README.md beside the folder is a page as well.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from diffplan.config.config import BY_KIND, settled
from diffplan.config.planners import get_config
from diffplan.config.presets import (
    BASELINES,
    NOT_RELEASED,
    RELEASED,
    SOURCE,
)
from diffplan.errors import DiffplanError
from diffplan.scripts.benchmark.report import benchmark_table
from diffplan.scripts.checks import main
from diffplan.scripts.checks.ogbench_table import PUBLISHED, ogbench_table
from diffplan.scripts.checks.queries_table import queries_table
from diffplan.scripts.report.markdown import (
    machine_line,
    markdown,
    mean_interval,
    milliseconds,
    percent,
)
from diffplan.scripts.studies.report import study_table

_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results_table(data: dict[str, Any]) -> str:
    """The table of `diffplan evaluate`."""
    header = ["policy", "return [95 % CI]", "success [95 % CI]", "n"]
    header += ["ms per decision (median)", "ms per plan"]
    rows = [
        [
            name.replace("_", " "),
            mean_interval(row["return_mean"], row["return_ci95"]),
            percent(row),
            str(row["episodes"]),
            milliseconds(row.get("decision_ms_median")),
            milliseconds(row.get("replan_ms_median")),
        ]
        for name, row in data["policies"].items()
    ]
    return (
        f"{data['config']} on {data['dataset']}, trained in {data['train_seconds']:.0f} s; "
        f"{data['env_id']}, seeds {data['seed']} to {data['seed'] + data['episodes'] - 1}; one "
        f"training seed.\n\n{markdown(header, rows)}\n\n"
        f"Command: `{data['command']}`. Machine: {machine_line(data)}."
    )


def tasks_table(data: dict[str, Any]) -> str:
    """The table of `diffplan evaluate` for a model of several tasks."""
    others = list(dict.fromkeys(key for t in data["tasks"].values() for key in t["policies"]))
    others.remove("planner")
    header = ["task", "return [95 % CI]", "success [95 % CI]", "n"]
    rows = []
    for name, task in data["tasks"].items():
        row = task["policies"]["planner"]
        line = [name, mean_interval(row["return_mean"], row["return_ci95"]), percent(row)]
        beside = (task["policies"].get(key) for key in others)
        rows.append(
            [*line, str(row["episodes"]), *("–" if o is None else _brief(o) for o in beside)]
        )
    mean = [mean_interval(data["return_mean"], data["return_ci95"]), percent(data)]
    rows.append(["**mean**", *mean, str(data["episodes"]), *("" for _ in others)])
    seeds = len(data["runs"])
    return (
        f"{data['config']} on {data['dataset']}, told of its task: "
        f"{data['task_given'] or 'nothing'}; trained in {data['train_seconds']:.0f} s; seeds "
        f"{data['seed']} to "
        f"{data['seed'] + data['episodes_per_task'] - 1}; "
        f"{'one training seed' if seeds == 1 else f'{seeds} training seeds'}.\n\n"
        f"{markdown([*header, *(key.replace('_', ' ') for key in others)], rows)}\n\n"
        f"Command: `{data['command']}`. Machine: {machine_line(data)}."
    )


def _brief(row: dict[str, Any]) -> str:
    success = row["success_rate"]
    return f"{row['return_mean']:.1f}" + ("" if success is None else f", {100 * success:.0f} %")


def counts_table(data: dict[str, Any]) -> str:
    """The table of the check pointmaze_counts."""
    rows = [
        [
            name,
            f"{row['episodes']:,}",
            f"{row['published']:,.0f}" if row.get("published") else "–",
            f"{100 * (row['episodes'] / row['published'] - 1):+.1f} %"
            if row.get("published")
            else "–",
        ]
        for name, row in data["mazes"].items()
    ]
    table = markdown(["maze", "episodes in 1M steps", "published", "difference"], rows)
    return f"{table}\n\nCommand: `{data['command']}`."


def presets_table() -> str:
    """The published settings by dataset."""
    header = ["D4RL data", "H", "denoising steps", "guidance", "target return"]
    header += ["learning rate", "note"]
    published = [
        [
            row.label,
            str(row.horizon),
            str(row.steps),
            f"{row.guidance_weight:g}",
            "–" if row.target_return is None else f"{row.target_return:,.0f}",
            f"{row.learning_rate:g}",
            row.note,
        ]
        for row in RELEASED
    ]
    without = "; ".join(f"`{pattern}`: {reason}" for pattern, reason in NOT_RELEASED.items())
    return (
        f"`trajectory-diffuser-published`, from {SOURCE}. H counts the current state, "
        "`--plan.horizon` is H − 1.\n\n"
        f"{markdown(header, published)}\n\nNo preset: {without}."
    )


def kinds_table() -> str:
    """Ours by the kind of data, beside the published configuration."""
    published = get_config("trajectory-diffuser-published")
    kinds = [settled(get_config("trajectory-diffuser"), has_goal) for has_goal in (True, False)]
    keys = [*BY_KIND, "planning.replan_every"]
    rows = [[f"`{k}`", *(str(attrgetter(k)(c)) for c in (published, *kinds))] for k in keys]
    return markdown(["setting", "published", "ours, with a goal", "ours, without a goal"], rows)


def baselines_table() -> str:
    """What other papers' planners change by dataset, and where that comes from."""
    rows = [
        [
            f"`{name}`",
            "with a goal" if data == "goal" else f"`{data}`",
            ", ".join(f"`{key}` {value}" for key, value in settings.items()),
            source,
        ]
        for (name, data), (settings, source) in BASELINES.items()
    ]
    return markdown(["planner", "data", "settings", "source"], rows)


def reference_table(data: dict[str, Any]) -> str:
    """The table of the check maze2d_controllers."""
    header = ["maze", "plans at every start", "plans once", "D4RL's maximum", "difference"]
    rows = [
        [
            maze,
            *(
                f"{found[key]['return']:.1f} ± {found[key]['standard_error']:.1f}"
                for key in ("plans at every start", "plans once")
            ),
            f"{found['d4rl_reference_maximum']:.2f}",
            f"{found['standard_errors']:+.2f} standard errors",
        ]
        for maze, found in data["mazes"].items()
    ]
    return (
        f"{markdown(header, rows)}\n\nReturns ± standard errors, {data['episodes']} episodes; the "
        f"difference is of planning once, in standard errors of both means (D4RL's taken over 100 "
        f"episodes).\n\nCommand: `{data['command']}`."
    )


def export_table(data: dict[str, Any]) -> str:
    """The table of the check export."""
    differences = ("from_onnx", "from_eager", "from_eager_median")
    rows = [
        [
            f"{row['config']}, {row['updates']} updates",
            row["env_id"],
            *(f"{row[key]:.1e}" for key in differences),
            f"{row['mebibytes']:.1f}",
        ]
        for row in data["export"].values()
    ]
    header = ["planner", "environment", "largest difference from the agent with onnx"]
    header += ["with eager", "its median", "MiB"]
    own, full = data["needs"]["runtime"], data["needs"]["diffplan"]
    return (
        f"{markdown(header, rows)}\n\nOver {data['steps']:,} environment steps, batch size 1, in "
        f"action units. What the export needs takes {own['mebibytes']:,.0f} MiB installed, all "
        f"that diffplan needs {full['mebibytes']:,.0f}; from nothing to a planner that is ready "
        f"takes {own['start_cpu_seconds']:.2f} s of a core instead of "
        f"{full['start_cpu_seconds']:.2f} (median of {data['rounds']} processes).\n\nCommand: "
        f"`{data['command']}`. Machine: {machine_line(data)}."
    )


def benchmarks_table(runs: list[dict[str, Any]]) -> str:
    """One row per `diffplan benchmark`, at its own settings; the fastest plan is the measure."""
    # ratios say more than times of one machine
    fastest = min(run["replan_ms_median"] for run in runs)
    cheapest = min(run["amortised_ms"] for run in runs)
    rows = []
    planners = [run["label"].split(",")[0].split(" at ")[0] for run in runs]
    # of one planner they differ by their sizes
    by = {
        run["command"]: run["label"].split(" (")[0] if len(set(planners)) == 1 else planner
        for run, planner in zip(runs, planners, strict=True)
    }
    for run in sorted(runs, key=lambda run: float(run["replan_ms_median"])):
        # the row of the own settings among the sweeps
        own = next(case for case in run["cases"] if run["own"].items() <= case.items())
        rows.append(
            [
                by[run["command"]],
                f"{own['horizon']}",
                f"{own['denoising_steps']}",
                f"{own['candidates']}",
                f"{own['flops'] / 1e6:,.1f}",
                f"{run['replan_ms_median']:,.2f}",
                f"{run['replan_ms_median'] / fastest:,.0f}",
                f"{run['amortised_ms']:,.2f}",
                f"{run['amortised_ms'] / cheapest:,.0f}",
            ]
        )
    header = ["planner", "H", "denoising steps", "K", "MFLOP", "ms per plan", "times the fastest"]
    header += ["ms per decision", "times the cheapest"]
    products = [run["reference_matmul_ms"] for run in runs]
    machine = runs[0]["machine"]
    return (
        f"{markdown(header, rows)}\n\nRandom weights; engine {runs[0]['engine']}, batch of one, "
        f"{machine['threads']} thread. Beside each run a 1024 × 1024 × 1024 float32 product took "
        f"{min(products):.1f} to {max(products):.1f} ms. Per decision is the mean over the steps "
        "that a plan is kept.\n\nCommands:\n\n"
        + "\n".join(f"- `{run['command']}`" for run in runs)
        + f"\n\nMachine: {machine['cpu']}, PyTorch {machine['versions']['torch']}."
    )


def brief_table(data: dict[str, Any]) -> str:
    """Scores alone of `diffplan study`; bold: the highest of a line, and means in its interval.

    A row of one training seed has no interval over seeds, and its score stands alone.
    """
    study = data["study"]
    labels = list(dict.fromkeys(label for found in study.values() for label in found["rows"]))
    rows = []
    for name, found in study.items():
        ends = {
            label: row["mean_ci95"] if len(row["seeds"]) > 1 else None
            for label, row in found["rows"].items()
        }
        best = max(found["rows"], key=lambda label: found["rows"][label]["mean"])
        least = (ends[best] or [found["rows"][best]["mean"]])[0]
        cells = []
        for label in labels:
            if (row := found["rows"].get(label)) is None:
                cells.append("–")
                continue
            text = mean_interval(row["mean"], ends[label])
            cells.append(f"**{text}**" if row["mean"] >= least else text)
        rows.append([name, *cells])
    return markdown(["data", *labels], rows)


# tables of the code itself, which have no file of results
_FROM_CODE = {"presets": presets_table, "kinds": kinds_table, "baselines": baselines_table}


def _kind(data: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    # reports have no field for their kind: each is known by what it alone holds
    if "export" in data:
        return export_table
    if "reference_matmul_ms" in data:
        return benchmark_table
    if "queries" in data:
        return queries_table
    if "study" in data:
        return study_table if PUBLISHED.keys().isdisjoint(data["study"]) else ogbench_table
    if "tasks" in data:
        return tasks_table
    if "policies" in data:
        return results_table
    # both checks write mazes
    reference = any("d4rl_reference_maximum" in maze for maze in data["mazes"].values())
    return reference_table if reference else counts_table


def update(folder: Path, *, check: bool = False) -> list[Path]:
    """Rewrite the tables of all pages in a folder; returns the pages that changed (or would)."""
    changed = []
    for page in (*sorted(folder.glob("*.md")), *folder.resolve().parent.glob("README.md")):

        def fill(match: re.Match[str], page: Path = page) -> str:
            if match[2] in _FROM_CODE:
                return f"{match[1]}\n{_FROM_CODE[match[2]]()}\n\n{match[3]}"
            if "*" in match[2]:
                files = sorted(page.parent.glob(match[2]))
                if not files:
                    raise DiffplanError(f"{page} takes a table from {match[2]}: there are none")
                runs = [json.loads(file.read_text()) for file in files]
                return f"{match[1]}\n{benchmarks_table(runs)}\n\n{match[3]}"
            brief, file = match[2].startswith("brief:"), match[2].removeprefix("brief:")
            source = page.parent / file
            if not source.is_file():
                raise DiffplanError(f"{page} takes a table from {source}, which does not exist")
            # a page says once how its tables were measured
            data = json.loads(source.read_text()) | {"protocol": None}
            table = brief_table if brief else _kind(data)
            return f"{match[1]}\n{table(data)}\n\n{match[3]}"

        # pages without a change keep their time stamp
        before = page.read_text()
        after = _BLOCK.sub(fill, before)
        if after != before:
            changed.append(page)
            if not check:
                page.write_text(after)
    return changed


@dataclass(frozen=True)
class Tables:
    """Write the tables of the documentation from the JSON files beside it."""

    check: bool = False
    """Write nothing; exit with 1 if a table is out of date."""
    folder: Path = Path("docs")
    """Where the pages are."""

    def run(self) -> None:
        """Rewrite or check."""
        changed = update(self.folder, check=self.check)
        for page in changed:
            print(f"{'out of date' if self.check else 'wrote'}: {page}")
        # for CI: a table that is out of date fails it
        if self.check and changed:
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(Tables, __spec__.name, sys.argv[1:]))
