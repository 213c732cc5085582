"""What decides whole plans, made as the run makes them: inputs exchanged, steps left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.model.context import Context
from diffplan.model.proposer.base import Proposal
from diffplan.planning.chains import Chain, chain_of
from diffplan.planning.stages import Noise, optimise, propose
from diffplan.scripts.analyse.estimators import bootstrapped, median_distance, spectral_entropy
from diffplan.scripts.analyse.subject import PROPOSAL, Sample, Subject
from diffplan.scripts.report.intervals import Estimate, estimate_mean

_CANDIDATES, _DIVERSE = 32, 24  # plans for one context, and how many contexts
NOISE = "noise"


class Maker:
    """Makes plans of a sample as the run's own settings say, one candidate each."""

    def __init__(self, subject: Subject, sample: Sample, seed: int) -> None:
        self.subject, self.sample, self.model = subject, sample, subject.model
        self.settings = replace(subject.settings, candidates=1, reuse=False)
        self.chain = chain_of(self.model, self.settings)
        self.generator = torch.Generator().manual_seed(seed)
        self.context = self._asked(sample.context)
        self.noise = self.drawn(len(sample))
        self.proposal = self.proposed(self.context)

    def _asked(self, context: Context) -> Context:
        """The windows' contexts, asked for the returns that followed."""
        return context if self.model.use_returns else replace(context, target_return=None)

    def drawn(self, count: int) -> Noise:
        """Random numbers of so many plans."""
        model, horizon = self.model, self.model.config.plan.horizon

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=self.generator)

        rows, dim = model.rows, model.plan_dim
        steps = 0 if self.chain is None else len(self.chain.grid) - 1
        return Noise(
            normal(count, 1, horizon, model.spec.planned_dim + 1),
            normal(count, 1, rows, dim),
            normal(steps, count, 1, rows, dim),
            torch.zeros(count, 1),
        )

    def proposed(self, context: Context) -> Proposal | None:
        """Proposals, where plans begin at them."""
        return propose(self.model, context, self.noise.propose, self.settings)

    def plans(
        self,
        context: Context | None = None,
        proposal: Proposal | None = None,
        noise: Noise | None = None,
        settings: PlanningConfig | None = None,
        chain: Chain | None = None,
    ) -> Tensor:
        """Plans [B, rows, D] with something in place of what they are made of."""
        given = self.chain if chain is None else chain
        return optimise(
            self.model,
            self.context if context is None else context,
            self.proposal if proposal is None else proposal,
            self.noise if noise is None else noise,
            self.settings if settings is None else settings,
            given,
        )[0]


# --- Which input decides -------------------------------------------------------------------------


@dataclass(frozen=True)
class Decides:
    """By input, the share of what plans of two windows differ by that it makes alone.

    Each is exchanged with another window's, all else kept: Sobol's total effect (Jansen 1999).
    denoiser: of what the denoiser is given, its proposal and noise among them. everywhere: of
    conditions exchanged for the proposer as well.
    """

    denoiser: dict[str, Estimate]
    everywhere: dict[str, Estimate]


def decides(maker: Maker) -> Decides:
    """What plans owe to each input."""
    subject, model = maker.subject, maker.model
    count = len(maker.sample)
    shift = torch.arange(count).roll(count // 2)
    own = maker.plans()
    names = [n for n in maker.model.denoiser.encoder.sizes if n != "state"]  # type: ignore[union-attr]
    proposal, exchanged = maker.proposal, None
    if proposal is not None:
        start = maker.context.state
        moved = proposal.states - start[:, None]
        exchanged = Proposal(start[:, None] + moved[shift], proposal.returns[shift])
    noise = maker.noise
    other_noise = Noise(
        *(noise.propose[shift], noise.start[shift]),
        None if noise.steps is None else noise.steps[:, shift],
        noise.select,
    )

    def with_other(name: str) -> Context:
        value = maker.context.given(name)
        if name == "goal":  # as far off in the same direction, wherever the window begins
            place = model.spec.planned_goal_columns
            here = maker.context.state[:, list(place)]
            value = here + (value - here)[shift]
        else:
            value = value[shift]
        return replace(maker.context, **{name: value})

    everything = maker.context
    for name in names:
        everything = replace(everything, **{name: getattr(with_other(name), name)})
    at_once = maker.plans(everything, exchanged, other_noise)
    plans = {name: maker.plans(with_other(name)) for name in names}
    if exchanged is not None:
        plans[PROPOSAL] = maker.plans(proposal=exchanged)
    plans[NOISE] = maker.plans(noise=other_noise)
    both = {
        name: maker.plans(context, maker.proposed(context))
        for name, context in ((name, with_other(name)) for name in names)
    }
    whole = subject.squares(at_once - own).double().numpy()

    def share(other: Tensor) -> Estimate:
        pair = np.stack([subject.squares(other - own).double().numpy(), whole])
        return bootstrapped(lambda m: (m[0] / np.maximum(m[1], 1e-12))[None], pair)[0]

    return Decides(
        {name: share(plan) for name, plan in plans.items()},
        {name: share(plan) for name, plan in both.items()},
    )


# --- How many steps ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Plans of fewer steps from the same start.

    levels: the chain's own. change: by steps, how far plans are off those of all steps, as a share
    of how far plans are off no move at all; root mean squares. error: their mean squared error of
    an entry against the data.
    """

    levels: tuple[int, ...]
    change: dict[int, Estimate]
    error: dict[int, Estimate]


def steps(maker: Maker) -> Steps | None:
    """Plans of 1, 2, ... steps; None where nothing is refined."""
    subject, chain = maker.subject, maker.chain
    if not isinstance(chain, Chain):
        return None
    entries = float(subject.free.sum())
    most = len(chain.grid) - 1
    final = maker.plans()
    size = subject.squares(final).double().numpy()
    change, error = {}, {}
    for count in _counts(most):
        plan = final
        if count < most:
            settings = replace(maker.settings, denoising_steps=count)
            if settings.start not in ("process", "noise"):
                settings = replace(settings, start_level=chain.grid[0])  # the same start
            shorter = chain_of(maker.model, settings)
            assert isinstance(shorter, Chain)
            plan = maker.plans(settings=settings, chain=shorter)
        off = subject.squares(plan - final).double().numpy()
        change[count] = bootstrapped(
            lambda m: np.sqrt(m[0] / np.maximum(m[1], 1e-12))[None], np.stack([off, size])
        )[0]
        against = subject.squares(plan - maker.sample.x0) / entries
        error[count] = estimate_mean(against.double().numpy(), resamples=500)
    return Steps(chain.grid, change, error)


def _counts(most: int) -> list[int]:
    """1 to most, of many steps about ten of them."""
    every = max(1, most // 10)
    return sorted({*range(1, most, every), most})


# --- Diversity -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Diversity:
    """Spectral entropy in bits, all with the data's median distance for a bandwidth.

    data, plans: of the windows' plans in the data and those made for them. candidates: of plans
    for one context, over contexts; at most log2 `of`.
    """

    data: Estimate
    plans: Estimate
    candidates: Estimate
    of: int


def diversity(maker: Maker) -> Diversity:
    """Plans beside the data's, and candidates beside each other."""
    model, settings = maker.model, maker.settings
    truth, made = maker.sample.x0.flatten(1), maker.plans().flatten(1)
    width = median_distance(truth)
    halves = torch.arange(len(truth)).chunk(2)

    def entropy(x: Tensor) -> Estimate:
        found = [spectral_entropy(x[half], width) for half in halves]
        return Estimate(float(np.mean(found)), min(found), max(found), 2)

    few = maker.context.rows(slice(0, _DIVERSE))
    many = replace(settings, candidates=_CANDIDATES)
    noise = maker.drawn(len(few) * _CANDIDATES)

    def shaped(x: Tensor) -> Tensor:
        return x.view(*x.shape[:-4], len(few), _CANDIDATES, *x.shape[-2:])

    many_noise = Noise(
        shaped(noise.propose),
        shaped(noise.start),
        None if noise.steps is None else shaped(noise.steps),
        torch.zeros(len(few), _CANDIDATES),
    )
    proposal = propose(model, few, many_noise.propose, many)
    plans = optimise(model, few.repeat(_CANDIDATES), proposal, many_noise, many, maker.chain)[0]
    each = [spectral_entropy(x, width) for x in plans.flatten(1).split(_CANDIDATES)]
    return Diversity(entropy(truth), entropy(made), estimate_mean(each), _CANDIDATES)
