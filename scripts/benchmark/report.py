"""The report of `diffplan benchmark`: its curves, and its text for terminal and documentation."""

from __future__ import annotations

import statistics
from typing import Any

from diffplan.engines import ENGINES
from diffplan.scripts.benchmark.curve import STRAIGHT, straight_line

STAGES = ("propose", "optimise", "select", "decode")
"""Of a decision, in order."""

_BUSY = 1.25  # slowest round over the fastest
_SETTINGS = ("batch", "candidates", "denoising_steps", "horizon")
_UNITS = {"batch": "environment", "horizon": "plan state"}


def benchmark_table(data: dict[str, Any]) -> str:
    """Everything that was measured: decisions, stages, operations against the ceilings, curves."""
    scale = data["reference_machine_ms"] / data["reference_matmul_ms"]
    machine = data["machine"]
    parts = [
        f"{data['label']}; {data['warning']}.",
        _reference(data, scale),
        f"Whole decisions. {_summary(data, scale)}",
        _decisions(data, scale),
        *([] if data["beside"] is None else [beside_table(data["beside"])]),
        "Stages of the eager engine in ms; host is the rest of the decision.",
        _stages(data),
        "What a decision needs, and the share of the machine's ceiling it reaches. "
        + " ".join(_ceiling(place, found) for place, found in data["ceilings"].items()),
        _work(data),
    ]
    if data["lines"]:
        parts.append("\n".join(f"- {_line(found)}" for found in data["lines"]))
    if data["random_horizons"]:
        parts.append(
            f"Horizons other than the run's own {data['own']['horizon']} have random weights."
        )
    if data["left_out"]:
        parts.append("Left out:\n\n" + "\n".join(f"- {line}" for line in data["left_out"]))
    parts.append(
        (f"{data['protocol']}\n\n" if data["protocol"] else "")
        + f"Command: `{data['command']}`. Machine: {machine['cpu']}, "
        f"{machine['device']}, PyTorch {machine['versions']['torch']}."
    )
    return "\n\n".join(parts)


def _reference(data: dict[str, Any], scale: float) -> str:
    """The reference product, and a warning where its rounds say that the machine was busy."""
    rounds = data["reference_rounds_ms"]
    text = (
        f"A 1024 × 1024 × 1024 float32 product takes {min(rounds):.1f} ms here on one thread (by "
        f"rounds up to {max(rounds):.1f}). "
    )
    # rounds that differ in all cases together point at the machine, not at a case
    typical = sum(case["replan_ms_median"] for case in data["cases"])
    spread = sum(statistics.median(case["round_medians_ms"]) for case in data["cases"]) / typical
    if max(rounds) > _BUSY * min(rounds) or spread > _BUSY:
        text += "The machine was busy with other work: take small differences for nothing. "
    return text + (
        f'"Scaled" is a time on a CPU times {scale:.2f}, as if the product took '
        f"{data['reference_machine_ms']:.0f} ms; everything else is as measured."
    )


def headline(data: dict[str, Any]) -> str:
    """The figures that matter most, in a line."""
    return _summary(data, data["reference_machine_ms"] / data["reference_matmul_ms"])


def _summary(data: dict[str, Any], scale: float) -> str:
    """The own settings with the fastest engine."""
    ms = data["replan_ms_median"]
    text = f"At the own settings with the fastest engine that changes no plan, {data['engine']}: "
    text += f"{ms:.3g} ms a plan"
    # the reference product runs on a CPU and says nothing of a GPU
    if data["own"]["device"] == "cpu":
        text += f" (scaled {ms * scale:.3g})"
    text += f", {data['amortised_ms']:.3g} ms a decision while plans are kept"
    if data["plans_per_second_64"] is not None:
        text += f"; at batch 64 {data['plans_per_second_64']:,.0f} plans/s"
    return f"{text}."


def beside_table(found: dict[str, Any]) -> str:
    """One decision of the own settings beside an actor and beside its own products."""
    actor, products = found["actor"], found.get("products")
    kept = found["steps_per_plan"]
    steps = f"mean of the {kept} steps of a plan"
    labels = {"plan": "a new plan", "kept": "a step on a plan that is kept", "decision": steps}
    if kept == 1:
        labels = {"plan": labels["plan"]}
    rows = [("an actor of two layers of 256 in PyTorch", actor)]
    if products is not None:
        rows.append(("the products of a new plan alone, in ONNX Runtime", products))
    for engine, times in found["engines"].items():
        rows += [(f"{engine}: {label}", times[key]) for key, label in labels.items()]
        rows += [
            (f"{engine}: {label}, other work between", times[f"{key}_cold"])
            for key, label in labels.items()
        ]
    header = ["one decision of the own settings", "ms", "actor's calls", "products' time"]
    cells = [
        [
            label,
            _ms(ms),
            f"{ms / actor:.1f}",
            f"{ms / products:.2f}" if products is not None and "kept" not in label else "–",
        ]
        for label, ms in rows
    ]
    return (
        "Beside what runs in the same rounds. Other work: 4 MiB are written before every call, as "
        f"an environment's step may.\n\n{_markdown(header, cells)}"
    )


def _decisions(data: dict[str, Any], scale: float) -> str:
    header = ["engine", "device", "threads", "batch", "K", "denoising steps", "H"]
    header += ["ms a plan", "p95", "scaled", "plans/s", "ms between", "ms a decision", "start-up s"]
    rows = [
        [
            row["engine"],
            row["device"],
            *(str(row[key]) for key in ("threads", *_SETTINGS)),
            _ms(row["replan_ms_median"]),
            _ms(row["replan_ms_p95"]),
            _ms(row["replan_ms_median"] * scale if row["device"] == "cpu" else None),
            f"{row['plans_per_second']:,.0f}",
            _ms(row["between_ms_median"]),
            _ms(row["amortised_ms"]),
            f"{row['startup_seconds']:.2f}",
        ]
        for row in data["cases"]
    ]
    return _markdown(header, rows)


def _stages(data: dict[str, Any]) -> str:
    rows = []
    for row in data["cases"]:
        # engines that export or capture a plan run its stages as one
        if "stages_ms" in row:
            times = [*(row["stages_ms"][name] for name in STAGES), row["host_ms"]]
            where = [row["device"], str(row["threads"]), *(str(row[key]) for key in _SETTINGS)]
            rows.append([*where, *map(_ms, times), _ms(row["replan_ms_median"])])
    header = ["device", "threads", "batch", "K", "denoising steps", "H", *STAGES, "host", "whole"]
    return _markdown(header, rows)


def _ceiling(place: str, found: dict[str, Any]) -> str:
    products = ", ".join(f"{rate / 1e9:,.0f} by {by}" for by, rate in found["products"].items())
    rates = {int(size): rate / 1e9 for size, rate in found["bytes"].items()}
    best, largest = max(rates, key=lambda size: rates[size]), max(rates)
    text = f"{place}: a large float32 product runs at {products} GFLOP/s, the fastest counts; "
    if best == largest:
        return f"{text}a large copy at {rates[largest]:,.1f} GB/s."
    return (
        f"{text}{best / 2**20:.3g} MiB that are read over and over come at {rates[best]:,.0f} "
        f"GB/s, {largest / 2**20:.0f} MiB at {rates[largest]:,.0f}."
    )


def _work(data: dict[str, Any]) -> str:
    header = ["engine", "device", "threads", "batch", "K", "denoising steps", "H", "MFLOP", "MB"]
    header += ["ms by operations", "ms by bytes", "ms a plan", "share"]
    rows = [
        [
            row["engine"],
            row["device"],
            *(str(row[key]) for key in ("threads", *_SETTINGS)),
            f"{row['flops'] / 1e6:,.1f}",
            f"{row['bytes'] / 1e6:,.1f}",
            _ms(row["flops_ms"]),
            _ms(row["bytes_ms"]),
            _ms(row["replan_ms_median"]),
            f"{100 * row['ceiling_share']:.0f} %",
        ]
        for row in data["cases"]
    ]
    return _markdown(header, rows)


def _line(found: dict[str, Any]) -> str:
    text = f"{found['engine']} ({found['place']}) over {found['over']}: "
    if found["first"] is None:
        return f"{text}no three neighbouring values lie on a straight line."
    text += f"{_ms(found['fixed_ms'])} ms + {_ms(found['slope_ms'])} ms per {_UNITS[found['over']]}"
    text += f" holds within {100 * STRAIGHT:.0f} % from {found['first']} to {found['last']}"
    if not found["off"]:
        return f"{text}, all that was measured."
    off = ", ".join(f"{factor:.2f} times that at {x}" for x, factor in found["off"].items())
    return f"{text}; the cost is {off}."


def fastest(rows: list[dict[str, Any]], own: dict[str, Any], batch: int) -> dict[str, Any] | None:
    """The fastest engine that changes no plan, at the own settings on the first device."""
    wanted = own | {"batch": batch}
    same = [
        row
        for row in rows
        if ENGINES[row["engine"]].exact
        and all(row[key] == value for key, value in wanted.items() if key != "engine")
    ]
    # none where no engine could run the batch, as one that is too long
    return min(same, key=lambda row: row["replan_ms_median"], default=None)


def lines(
    rows: list[dict[str, Any]], own: dict[str, Any], sweeps: tuple[str, ...]
) -> list[dict[str, Any]]:
    """How far each engine's cost is a straight line in batch and horizon."""
    found = []
    places = dict.fromkeys((row["engine"], row["device"], row["threads"]) for row in rows)
    for engine, device, threads in places:
        for over in (name for name in ("batch", "horizon") if name in sweeps):
            # the sweep is what agrees with the own settings in everything else
            wanted = own | {"engine": engine, "device": device, "threads": threads}
            wanted.pop(over)
            curve = sorted(
                (row[over], row["replan_ms_median"])
                for row in rows
                if all(row[key] == value for key, value in wanted.items())
            )
            x, ms = [float(a) for a, _ in curve], [b for _, b in curve]
            # through two points there is always a line
            if len(x) < 3:
                continue
            line = straight_line(x, ms)
            entry: dict[str, Any] = {
                "over": over,
                "engine": engine,
                "place": place_name(device, threads),
                "first": None,
            }
            if line is not None:
                entry |= {"fixed_ms": line.fixed, "slope_ms": line.slope}
                entry |= {"first": int(line.first), "last": int(line.last)}
                entry["off"] = {
                    int(a): b / line.at(a)
                    for a, b in zip(x, ms, strict=True)
                    if not line.first <= a <= line.last
                }
            found.append(entry)
    return found


def place_name(device: str, threads: int) -> str:
    """Where a case runs; the CPU's threads are no matter to a GPU."""
    if device != "cpu":
        return device
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"


def _ms(value: float | None) -> str:
    """Three figures, and never an exponent."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose columns are also aligned for a reader of the plain text."""
    lines = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])
