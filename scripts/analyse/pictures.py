"""The picture of an analysis: six panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffplan.scripts.analyse.conclusions import SAME, Findings, bears_shares
from diffplan.scripts.analyse.subject import Subject
from diffplan.scripts.report import pictures
from diffplan.scripts.report.intervals import Estimate

_NAMES = {"target_return": "return"}


def draw_analysis(path: Path, subject: Subject, found: Findings, title: str) -> None:
    """Write the picture."""
    with pictures.style():
        figure = Figure(figsize=(13, 7.4), layout="constrained")
        panels = figure.subplots(2, 3).flat
        _decides(panels[0], found)
        _knows(panels[1], found)
        _steps(panels[2], found)
        levels = subject.levels
        axes = panels[3]
        for values, colour, label in (
            (found.errors.wiener, pictures.CANDIDATE, "Wiener, knows no condition"),
            (found.errors.linear, pictures.PROPOSAL, "linear planner"),
            (found.errors.network, pictures.PLAN, "denoiser"),
        ):
            _line(axes, levels, values, colour, label)
        axes.set(title="squared error of an entry", xlabel="noise level", yscale="log")
        axes.legend(fontsize=9)
        axes = panels[4]
        _line(axes, levels, found.inside.rank, pictures.EXECUTED, "rank of the Jacobian")
        axes.axhline(found.inside.of, color=pictures.CANDIDATE, linestyle=":")
        axes.set(
            title=f"directions that a plan moves in, of {found.inside.of}", xlabel="noise level"
        )
        axes.set_ylim(bottom=0)
        _plane(panels[5], levels, found)
        figure.suptitle(title)
        pictures.save(figure, path)


def _line(
    axes: Axes, x: Sequence[int], values: Sequence[Estimate], colour: str, label: str
) -> None:
    axes.plot(x, [each.mean for each in values], "o-", color=colour, markersize=4, label=label)
    low, high = [each.low for each in values], [each.high for each in values]
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _bars(values: Sequence[Estimate]) -> dict[str, Any]:
    off = [[max(0.0, 100 * (v.mean - v.low)), max(0.0, 100 * (v.high - v.mean))] for v in values]
    return {"xerr": list(zip(*off, strict=True)), "error_kw": {"linewidth": 1}}


def _decides(axes: Axes, found: Findings) -> None:
    for place, (name, share) in enumerate(found.decides.denoiser.items()):
        axes.barh(
            place - 0.18,
            100 * share.mean,
            0.36,
            color=pictures.PLAN,
            **_bars([share]),
            label="" if place else "in the denoiser",
        )
        both = found.decides.everywhere.get(name)
        if both is not None:
            axes.barh(
                place + 0.18,
                100 * both.mean,
                0.36,
                color=pictures.PROPOSAL,
                **_bars([both]),
                label="" if place else "in the proposer too",
            )
    names = [_NAMES.get(name, name) for name in found.decides.denoiser]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title="what decides the plan: exchanged alone", xlabel="% of what plans differ by")
    axes.legend(fontsize=9)


def _knows(axes: Axes, found: Findings) -> None:
    if found.known is None or not bears_shares(found.known):
        axes.set_axis_off()
        axes.set_title("what the denoiser knows by each condition:\nno more than its own errors")
        return
    for place, parts in enumerate(found.known.parts.values()):
        left = 0.0
        for part, colour in (
            ("unique", pictures.PLAN),
            ("redundant", pictures.PROPOSAL),
            ("synergistic", pictures.EXECUTED),
        ):
            width = 100 * parts[part].mean
            axes.barh(place, width, 0.5, left=left, color=colour, label="" if place else part)
            left += max(0.0, width)
    names = [_NAMES.get(name, name) for name in found.known.parts]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    bits = found.known.bits
    axes.set(
        title="what the denoiser knows by each condition",
        xlabel=f"% of {bits.mean:.1f} bits [{bits.low:.1f}, {bits.high:.1f}]",
    )
    axes.legend(fontsize=9)


def _steps(axes: Axes, found: Findings) -> None:
    if found.steps is None:
        axes.set_axis_off()
        return
    counts = list(found.steps.change)
    shares = [
        Estimate(100 * each.mean, 100 * each.low, 100 * each.high, each.n)
        for each in found.steps.change.values()
    ]
    _line(axes, counts, shares, pictures.PLAN, "plan")
    axes.axhline(100 * SAME, color=pictures.CANDIDATE, linestyle=":", label="as good as the same")
    axes.set(title="how far fewer steps are off", xlabel="steps", ylabel="% of the plan's size")
    axes.set_xticks(counts)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)


def _plane(axes: Axes, levels: Sequence[int], found: Findings) -> None:
    x = [each.mean for each in found.inside.of_input]
    y = [each.mean for each in found.inside.of_plan]
    off = [[e.mean - e.low for e in found.inside.of_plan]] * 2
    axes.errorbar(x, y, yerr=off, fmt="o-", color=pictures.EXECUTED, markersize=4, linewidth=1)
    for at in (0, len(levels) - 1):
        axes.annotate(
            f"level {levels[at]}", (x[at], y[at]), fontsize=9, ha="right" if at == 0 else "left"
        )
    axes.axhline(found.inside.ceiling.mean, color=pictures.CANDIDATE, linestyle=":")
    axes.set(
        title="information plane of the last features",
        xlabel="bits of x_t",
        ylabel="bits of the plan (dotted: its own)",
    )
