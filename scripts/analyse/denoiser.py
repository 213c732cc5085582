"""What a denoiser knows: of conditions, beside a linear planner, in how many directions."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffplan.diffusion.gaussian import Gaussian, fit_gaussian
from diffplan.scripts.analyse.estimators import (
    bootstrapped,
    directions,
    energy_rank,
    information,
    jacobian,
    median_distance,
    partial,
    sign_cells,
    spectral_entropy,
    spectral_information,
)
from diffplan.scripts.analyse.subject import Sample, Subject
from diffplan.scripts.report.intervals import Estimate, estimate_mean

_RANKED = 16  # windows whose Jacobian is taken
EXACT = 1.5
"""Times that gaps may be what errors fall by; of exact denoisers both are the same."""
_BITS = 1 / np.log(2)


@dataclass(frozen=True)
class Known:
    """What conditions tell of a plan at the levels, from the far end down, that gaps are right at.

    bits: of all together. by_errors: the same by how much errors fall, as a share of it: 1 where
    the denoisers are exact. parts: by condition unique, redundant, synergistic, alone, lost, as
    shares. gaps: by condition [levels], what an answer moves by without it, root mean square.
    """

    levels: tuple[int, ...]
    bits: Estimate
    by_errors: Estimate
    parts: dict[str, dict[str, Estimate]]
    moves: dict[str, list[float]]


def known(subject: Subject, sample: Sample) -> Known | None:
    """Partial information of the conditions beside each other; None without any to leave out."""
    names = subject.conditions
    if not names:
        return None
    full = frozenset(names)
    subsets = {frozenset(), full}
    subsets |= {frozenset([name]) for name in names} | {full - {name} for name in names}
    ordered = sorted(subsets, key=lambda kept: (len(kept), sorted(kept)))
    answers = {kept: subject.answers(sample, kept) for kept in ordered}

    def gaps(kept: frozenset[str]) -> Tensor:
        pairs = zip(answers[kept], answers[frozenset()], strict=True)
        return torch.stack([subject.squares(some - none) for some, none in pairs]).double()

    def errors(kept: frozenset[str]) -> Tensor:
        return torch.stack([subject.squares(each - sample.x0) for each in answers[kept]]).double()

    drops = errors(frozenset()) - errors(full)
    levels = _trusted(subject.levels, gaps(full).mean(1), drops.mean(1))
    snr, count = [subject.snr(t) for t in levels], len(levels)

    def told(kept: frozenset[str]) -> Tensor:
        return information(gaps(kept)[:count], snr)

    fallen = information(drops[:count], snr)
    values = torch.stack([*(told(kept) for kept in ordered), fallen]).numpy()
    place = {kept: i for i, kept in enumerate(ordered)}

    def shares(name: str, means: np.ndarray) -> np.ndarray:
        one, rest = means[place[frozenset([name])]], means[place[full - {name}]]
        found = [
            partial(float(a), float(b), float(c))
            for a, b, c in zip(*map(np.atleast_1d, (one, rest, means[place[full]])), strict=True)
        ]
        fields = ("unique", "redundant", "synergistic", "alone", "lost")
        table = np.array([[getattr(each, field) for each in found] for field in fields])
        return table if np.ndim(one) else table[:, 0]

    parts = {}
    for name in names:
        estimates = bootstrapped(functools.partial(shares, name), values)
        parts[name] = dict(
            zip(("unique", "redundant", "synergistic", "alone", "lost"), estimates, strict=True)
        )
    entries = float(subject.free.sum())
    moves = {}
    for name in names:
        moved = zip(answers[full], answers[full - {name}], strict=True)
        moves[name] = [float((subject.squares(a - b).mean() / entries).sqrt()) for a, b in moved]
    share = bootstrapped(lambda m: (m[-1] / np.maximum(m[place[full]], 1e-12))[None], values)[0]
    bits = bootstrapped(lambda m: m[place[full]][None] * _BITS, values)[0]
    return Known(levels, bits, share, parts, moves)


def _trusted(levels: tuple[int, ...], gaps: Tensor, drops: Tensor) -> tuple[int, ...]:
    """Levels from the far end down to where gaps first say more than errors bear out, at least two.

    Below, answers with and without a condition differ by the networks' own errors.
    """
    beyond = [bool(gap > EXACT * drop) for gap, drop in zip(gaps, drops, strict=True)]
    last = beyond.index(True) if True in beyond else len(levels)
    return levels[: max(2, last)]


# --- Errors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Mean squared error of an entry at every level, plan units.

    network: with all conditions. linear: the best linear planner with the same. wiener: without
    any, the state's included. ratio: of network and linear, its interval by pairs of windows.
    """

    network: list[Estimate]
    linear: list[Estimate]
    wiener: list[Estimate]
    ratio: list[Estimate]


def errors(subject: Subject, sample: Sample, training: Sample) -> Errors:
    """Beside the Gaussian closed form, which is fitted to training windows."""
    with_all = _fitted(subject, training)
    without = fit_gaussian(training.x0.flatten(1), training.x0.flatten(1)[:, :0])
    everything = frozenset(subject.conditions)
    entries = float(subject.free.sum())
    found: dict[str, list[Estimate]] = {"network": [], "linear": [], "wiener": [], "ratio": []}
    for t, x0 in zip(subject.levels, subject.answers(sample, everything), strict=True):
        y = subject.noised(sample, t)
        if sample.proposal is not None:
            y = y - subject.process.r[t] * sample.proposal
        a, sigma = subject.process.a[t], (subject.sigma(t) * subject.free).flatten().double()
        flat = y.flatten(1).double()
        guesses = {
            "network": x0,
            "linear": _denoised(with_all, flat, _told(subject, sample), a, sigma, x0),
            "wiener": _denoised(without, flat, flat[:, :0], a, sigma, x0),
        }
        squares = {
            name: (subject.squares(guess - sample.x0) / entries).double().numpy()
            for name, guess in guesses.items()
        }
        for name, values in squares.items():
            found[name].append(estimate_mean(values, resamples=500))
        pair = np.stack([squares["network"], squares["linear"]])
        found["ratio"] += bootstrapped(lambda m: (m[0] / np.maximum(m[1], 1e-12))[None], pair)
    return Errors(**found)


def _fitted(subject: Subject, training: Sample) -> Gaussian:
    return fit_gaussian(training.x0.flatten(1), _told(subject, training))


def _told(subject: Subject, sample: Sample) -> Tensor:
    """What the network is told, as a vector [B, C]: conditions and proposal."""
    parts = [subject.denoiser.encoder.flat(sample.context)]
    if sample.proposal is not None:
        parts.append(sample.proposal.flatten(1))
    return torch.cat(parts, 1).double()


def _denoised(
    gaussian: Gaussian, y: Tensor, c: Tensor, a: float, sigma: Tensor, like: Tensor
) -> Tensor:
    # entries that stay clean have no noise, and need some to be solved for
    found = gaussian.denoise(y, gaussian.given(c), a, sigma.clamp(min=1e-4))
    return found.view_as(like).to(like)


# --- Jacobian and features -----------------------------------------------------------------------


@dataclass(frozen=True)
class Inside:
    """Of the denoiser at every level.

    rank: directions that hold 99 % of its Jacobian's squares, of `of` there are. gain: root mean
    square of its singular values, 0 where x_t is ignored. entropy: bits of its features. of_input,
    of_plan: bits that these tell of x_t and of the plan. ceiling: bits that plans themselves tell
    of their cells. Intervals of the last four: both halves.
    """

    rank: list[Estimate]
    gain: list[Estimate]
    of: int
    entropy: list[Estimate]
    of_input: list[Estimate]
    of_plan: list[Estimate]
    ceiling: Estimate


def inside(subject: Subject, sample: Sample) -> Inside:
    """Rank of the Jacobian, entropy of the features before the output, and their plane."""
    everything = frozenset(subject.conditions)
    few = sample.rows(torch.arange(min(_RANKED, len(sample))))
    size = sample.x0[0].numel()
    repeated = few.rows(torch.arange(len(few)).repeat_interleave(directions(size)))
    at_few, at_all = subject.bound(repeated, everything), subject.bound(sample, everything)
    cells = sign_cells(sample.x0.flatten(1))
    halves = torch.arange(len(sample)).chunk(2)
    rank, gain, entropy = list[Estimate](), list[Estimate](), list[Estimate]()
    of_input, of_plan = list[Estimate](), list[Estimate]()
    for t in subject.levels:

        def clean(x: Tensor, t: int = t) -> Tensor:
            answer: Tensor = at_few(x, t)[1]
            return answer * subject.free

        found = jacobian(clean, subject.noised(repeated, t))
        rank.append(estimate_mean(energy_rank(found).double().numpy()))
        squares = found.double().square().sum((1, 2)) / directions(size)
        gain.append(estimate_mean(squares.sqrt().numpy()))
        x = subject.noised(sample, t)
        features = at_all(x, t)[0].flatten(1)
        width = median_distance(features)
        inputs = sign_cells(x.flatten(1))
        entropy.append(_halves([spectral_entropy(features[h], width) for h in halves]))
        for cell, into in ((inputs, of_input), (cells, of_plan)):
            into.append(
                _halves([spectral_information(features[h], cell[h], width) for h in halves])
            )
    plans = sample.x0.flatten(1)
    width = median_distance(plans)
    ceiling = _halves([spectral_information(plans[h], cells[h], width) for h in halves])
    return Inside(rank, gain, directions(size), entropy, of_input, of_plan, ceiling)


def _halves(values: list[float]) -> Estimate:
    return Estimate(float(np.mean(values)), min(values), max(values), len(values))
