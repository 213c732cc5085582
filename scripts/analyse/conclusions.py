"""What figures mean for whoever trains the run: one line each, said only where they bear it out.

Every line rests on an interval, not on a point: a share is "at least" by its lower end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffplan.scripts.analyse.denoiser import EXACT, Errors, Inside, Known
from diffplan.scripts.analyse.plans import NOISE, Decides, Diversity, Steps
from diffplan.scripts.analyse.subject import PROPOSAL, Subject
from diffplan.scripts.report.intervals import Estimate

MOST, HARDLY = 0.8, 0.05
"""Shares of a plan from which on an input decides it, and below which it does not matter."""
SAME = 0.05
"""Plans are the same where they are off by less, as a share of their size."""
LINEAR, WORSE = 0.9, 1.05
"""Error beside a linear planner's from which on that is as good, and from which on it is better."""
FLAT, DEAF = 0.5, 0.05
"""Share of a Jacobian's directions below which plans have fewer numbers than it seems, and the gain
below which the denoiser ignores x_t."""
TOLD = 0.1
"""Bits below which shares of them mean nothing."""
ONE = 1.5
"""Different plans among candidates below which these are copies."""


@dataclass(frozen=True)
class Findings:
    """All figures of an analysis; None where the run has no such thing."""

    decides: Decides
    steps: Steps | None
    known: Known | None
    errors: Errors
    inside: Inside
    diversity: Diversity


def conclusions(subject: Subject, found: Findings) -> list[str]:
    """Lines to act on, in the order of the page."""
    return [
        *_deciding(subject, found.decides),
        *_stepping(subject, found.steps),
        *_knowing(found.known),
        *_against_lines(subject, found.errors),
        *_ranked(subject, found.inside),
        *_diverse(subject, found.diversity),
        *_plane(subject, found.inside),
    ]


def bears_shares(found: Known | None) -> bool:
    """Whether what conditions tell is more than the denoiser's own errors."""
    return found is not None and found.by_errors.high >= 1 / EXACT and found.bits.high >= TOLD


def percent(share: Estimate) -> str:
    """A share with its interval."""
    return f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def number(value: Estimate, digits: int = 1) -> str:
    """A number with its interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _deciding(subject: Subject, found: Decides) -> Iterator[str]:
    ordered = sorted(found.denoiser, key=lambda name: -found.denoiser[name].mean)
    first = ordered[0]
    share = found.denoiser[first]
    others = [f"{name} {percent(found.denoiser[name])}" for name in ordered[1:]]
    line = ", ".join([f"{first} decides {percent(share)} of the plan", *others])
    if first == PROPOSAL and share.low >= MOST:
        line += ": a better proposer is worth more than a better denoiser"
    elif first == NOISE and share.low >= 0.5:
        line += (
            ": plans of one context differ that much; try a lower --noise-scale, or several "
            "--candidates if the run has a value"
        )
    elif share.low >= MOST:
        line += ": errors in it are errors of the plan"
    yield line
    proposal = found.denoiser.get(PROPOSAL)
    if proposal is not None and proposal.high <= HARDLY:
        yield (
            f"the proposal decides {percent(proposal)} of the plan: --start noise saves the "
            "proposer's time"
        )
    for name, everywhere in found.everywhere.items():
        if everywhere.high <= HARDLY:
            yield (
                f"{name} decides {percent(everywhere)} of the plan, the proposer's share "
                f"included: {_unheard(name)}"
            )
        elif found.denoiser[name].high <= HARDLY < everywhere.low:
            yield (
                f"{name} decides {percent(everywhere)} of the plan, but by way of the proposal: "
                f"in the denoiser alone {percent(found.denoiser[name])}, so that guidance by it "
                "has little to work on"
            )


def _unheard(name: str) -> str:
    if name == "target_return":
        return "do not tune the target; more --data.best-of-windows may do what it does not"
    return "the run does not listen to it; see whether the data show what it is for"


def _stepping(subject: Subject, found: Steps | None) -> Iterator[str]:
    if found is None:
        return
    most = max(found.change)
    enough = next((n for n in found.change if found.change[n].high <= SAME), most)
    if enough < most:
        start = subject.settings.start
        level = "" if start in ("process", "noise") else f" --start-level {found.levels[0]}"
        yield (
            f"{enough} of {most} steps make plans that are {percent(found.change[enough])} off "
            f"those of all: fewer will do, --denoising-steps {enough}{level}"
        )
    elif most > 1:
        before = max(n for n in found.change if n < most)
        yield (
            f"with {before} of {most} steps plans are {percent(found.change[before])} off those of "
            "all: no step is idle"
        )
    best = min(found.error, key=lambda n: found.error[n].mean)
    if found.error[best].high < found.error[most].low:
        yield (
            f"plans of {best} steps are nearer to the data than those of {most}: squared error "
            f"{number(found.error[best], 3)} beside {number(found.error[most], 3)}: try it in "
            "episodes before anything else"
        )


def _knowing(found: Known | None) -> Iterator[str]:
    if found is None:
        return
    if found.by_errors.high < 1 / EXACT:
        yield (
            f"errors fall by {percent(found.by_errors)} of what answers with and without "
            f"{' and '.join(found.parts)} differ by: what these tell of a plan is within the "
            "denoiser's own error, and no shares are given"
        )
        return
    if found.bits.high < TOLD:
        yield (
            f"under {TOLD:g} bits of a plan are told by {' and '.join(found.parts)} down to level "
            f"{found.levels[-1]}; below, answers differ by the denoiser's own error"
        )
        return
    down = f"down to the noise of level {found.levels[-1]}"
    if len(found.parts) == 1:
        yield f"{next(iter(found.parts))} tells {number(found.bits)} bits of a plan, {down}"
    else:
        yield f"all conditions together tell {number(found.bits)} bits of a plan, {down}"
    for name, parts in found.parts.items():
        if len(found.parts) == 1:
            continue
        if parts["lost"].high <= HARDLY:
            yield (
                f"{name} alone tells {percent(parts['alone'])} of what all conditions tell, and "
                f"without it {percent(parts['lost'])} is lost: the others say the same"
            )
        else:
            yield (
                f"{name}: {percent(parts['unique'])} of it no other tells, "
                f"{percent(parts['redundant'])} the others tell as well, "
                f"{percent(parts['synergistic'])} only with them"
            )


def _against_lines(subject: Subject, found: Errors) -> Iterator[str]:
    levels = subject.levels
    beaten = [t for t, ratio in zip(levels, found.ratio, strict=True) if ratio.low > WORSE]
    equal = [t for t, ratio in zip(levels, found.ratio, strict=True) if ratio.low >= LINEAR]
    if len(beaten) == len(levels):
        yield "at every level a linear planner is better: train longer"
    elif beaten:
        worst = max(range(len(levels)), key=lambda i: found.ratio[i].mean)
        yield (
            f"at level {_listed(beaten)} of {max(levels)} a linear planner is better, at level "
            f"{levels[worst]} by a factor of {number(found.ratio[worst], 1)}: steps there cost "
            "accuracy, take fewer, or train longer"
        )
    elif len(equal) == len(levels):
        yield "a linear planner is as good at every level: a smaller network will do"
    else:
        best = min(range(len(levels)), key=lambda i: found.ratio[i].mean)
        yield (
            f"the squared error is down to {percent(found.ratio[best])} of a linear planner's, at "
            f"level {levels[best]} of {max(levels)}"
            + (f"; at level {_listed(equal)} a linear one is as good" if equal else "")
        )


def _ranked(subject: Subject, found: Inside) -> Iterator[str]:
    heard = [i for i, gain in enumerate(found.gain) if gain.low >= DEAF]
    if not heard:
        yield "the denoiser ignores x_t at every level: conditions alone make its plans"
        return
    highest = max(heard, key=lambda i: found.rank[i].mean)
    rank = found.rank[highest]
    line = (
        f"the denoiser moves in at most {number(rank, 0)} of {found.of} directions, at level "
        f"{subject.levels[highest]}"
    )
    if rank.high < FLAT * found.of:
        line += ": plans have fewer free numbers than entries, so a longer --plan.stride may do"
    yield line


def _diverse(subject: Subject, found: Diversity) -> Iterator[str]:
    kinds, data = 2**found.candidates.mean, found.data
    interval = f"[{2**found.candidates.low:.1f}, {2**found.candidates.high:.1f}]"
    line = f"{found.of} candidates are {kinds:.1f} {interval} different plans"
    if 2**found.candidates.high < ONE:
        line += ": --candidates above 1 cost time and choose nothing"
    yield line
    if found.plans.high < data.low - 0.3:
        yield (
            f"plans are of fewer kinds than the data's, {number(found.plans)} bits beside "
            f"{number(data)}: the mean of several ways, perhaps; try --start noise or more noise"
        )


def _plane(subject: Subject, found: Inside) -> Iterator[str]:
    cleanest = len(subject.levels) - 1
    share, ceiling = found.of_plan[cleanest], found.ceiling
    line = (
        f"at the cleanest level features tell {number(share, 2)} bits of where plans go, of "
        f"{number(ceiling, 2)} that plans themselves tell"
    )
    if share.high < 0.8 * ceiling.low:
        line += ": they lose some of it, a wider network may keep more"
    elif share.low >= 0.8 * ceiling.low:
        line += ": width is not what is missing"
    yield line


def _listed(levels: list[int]) -> str:
    """1 to 3, or 2, 5, in ascending order."""
    ordered = sorted(levels)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))
