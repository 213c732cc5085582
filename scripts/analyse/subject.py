"""The model of an analysis with its held-out windows, and its denoiser with conditions left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan.agents import PlannerAgent
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.forward import q_sample
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.denoiser import Denoiser, Inputs
from diffplan.model.planner_model import PlannerModel

PROPOSAL = "proposal"
_LEVELS = 16  # of long schedules so many are looked at
_ROUNDS = 40  # of drawing, until there are as many whole windows as asked for


@dataclass(frozen=True)
class Sample:
    """Whole windows of the data in plan units.

    x0: [B, rows, D]. context: what they were made for, with the returns that followed. proposal:
    x̂ [B, rows, D] or None. noise: standard normal, like x0.
    """

    x0: Tensor
    context: Context
    proposal: Tensor | None
    noise: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def rows(self, index: Tensor) -> Sample:
        """Some of them."""
        proposal = None if self.proposal is None else self.proposal[index]
        return Sample(self.x0[index], self.context.rows(index), proposal, self.noise[index])


def draw(model: PlannerModel, sampler: WindowSampler, count: int, seed: int, part: str) -> Sample:
    """Windows that an episode's end does not cut short, each as likely as it weighs in training.

    Raises DiffplanError where there are hardly any.
    """
    generator = torch.Generator().manual_seed(seed)
    plans, contexts = [], []
    left = count
    for _ in range(_ROUNDS):
        windows = sampler.sample(count, generator, part)
        seen = model.normalised_windows(windows)
        kept = seen.mask.amin(1) * seen.weight > torch.rand(count, generator=generator)
        actions = seen.actions if model.config.actions_in_plan else None
        x0 = model.to_plan(seen.states[:, 0], seen.states[:, 1:], actions)
        plans.append(x0[kept][:left])
        contexts.append(model.context_of(seen).rows(kept).rows(slice(0, left)))
        left -= len(plans[-1])
        if not left:
            break
    else:
        raise DiffplanError(
            f"an analysis of {count} windows needs as many whole ones of {part} episodes, found "
            f"{count - left} in {_ROUNDS * count}; give fewer --windows"
        )
    context = contexts[0]
    for other in contexts[1:]:
        context = context.joined(other)
    x0 = torch.cat(plans)
    proposal = None
    if model.proposer is not None:
        states = model.proposer.propose(context).states
        proposal = model.to_plan(context.state, states) if x0.shape[2] == states.shape[2] else None
    return Sample(x0, context, proposal, torch.randn(x0.shape, generator=generator))


class Subject:
    """A denoiser under study: its process, levels, and answers with conditions left out.

    conditions: those that it can be asked without. missing: those that it cannot, with a reason.
    """

    def __init__(self, agent: PlannerAgent) -> None:
        """Raises DiffplanError for a model without a denoiser, or one with levels by stream."""
        model = agent.model
        if model.denoiser is None:
            kind = "streams" if model.streams is not None else "proposer-only"
            raise DiffplanError(
                f"an analysis looks into a denoiser at one noise level, which this model "
                f"({agent.config_name}) has not; expected another config than {kind}"
            )
        self.agent, self.model = agent, model
        self.denoiser: Denoiser = model.denoiser
        self.process, self.plain = model.main_process, model.plain_process
        self.settings = agent.settings
        held = model.held()
        free = torch.ones(model.rows, model.plan_dim) if held is None else (~held).float()
        self.free = free
        self.scale = model.noise_scale if self.process.scaled else None
        self.conditions, self.missing = self._conditions()
        self.levels = self._levels()

    def _conditions(self) -> tuple[tuple[str, ...], dict[str, str]]:
        config, found, missing = self.model.config.denoiser, [], {}
        for name in self.denoiser.encoder.sizes:
            if name == "state":
                continue  # a plan from nowhere is none
            if name != "task" and not config.drop_condition:
                missing[name] = "never left out in training (denoiser.drop_condition 0)"
            else:
                found.append(name)
        if self.model.proposer is None:
            missing[PROPOSAL] = "this run has none"
        elif not self.denoiser.use_proposal:
            missing[PROPOSAL] = "not seen by the network (denoiser.condition_on_proposal)"
        else:
            found.append(PROPOSAL)
        return tuple(found), missing

    def _levels(self) -> tuple[int, ...]:
        """Those with noise at which x0 can be read off, from the far end down."""
        levels = [t for t in range(self.process.T, 0, -1) if self.process.sigma[t] > 0]
        if not levels:
            raise DiffplanError(
                f"process {self.process.name!r} has no noise: there are no levels to look at"
            )
        if len(levels) > _LEVELS:
            apart = (len(levels) - 1) / (_LEVELS - 1)
            levels = [levels[round(i * apart)] for i in range(_LEVELS)]
        return tuple(levels)

    # --- Noise -----------------------------------------------------------------------------------

    def sigma(self, t: int) -> Tensor:
        """Noise of every entry [rows, D] at a level."""
        spread = torch.ones_like(self.free) if self.scale is None else self.scale
        return self.process.sigma[t] * spread

    def snr(self, t: int) -> float:
        """(a / sigma)^2 at a level, sigma as a root mean square over the entries."""
        noise = float(self.sigma(t).square()[self.free > 0].mean())
        return self.process.a[t] ** 2 / noise

    def noised(self, sample: Sample, t: int) -> Tensor:
        """x_t [B, rows, D] as training would make it."""
        at = torch.full((len(sample),), t)
        x = q_sample(self.process, at, sample.x0, sample.proposal, sample.noise, self.scale)
        return torch.where(self.free > 0, x, sample.x0)

    # --- Answers ---------------------------------------------------------------------------------

    def answers(
        self, sample: Sample, kept: frozenset[str], levels: tuple[int, ...] | None = None
    ) -> list[Tensor]:
        """x0_hat [B, rows, D] at every level, knowing only some conditions (and the state).

        Without a proposal it is asked along plain DDPM, as in training: at the two levels around
        the same noise to signal, its answers mixed by where that lies between them.
        """
        levels = self.levels if levels is None else levels
        if PROPOSAL not in self.conditions or PROPOSAL in kept:
            at = self.bound(sample, kept)
            return [at(x, t)[1] for t, x in ((t, self.noised(sample, t)) for t in levels)]
        asked = [self._between(1 / math.sqrt(max(self.snr(t), 1e-12))) for t in levels]
        needed = sorted({t for pair in asked for t in pair[:2]}, reverse=True)
        encoded = self._encoded(sample.context, kept)
        denoise = self.denoiser.bind(self.plain, (*needed, 0), encoded)
        found = {}
        for t in needed:
            x = self.plain.a[t] * sample.x0 + self.plain.sigma[t] * sample.noise
            found[t] = denoise(torch.where(self.free > 0, x, sample.x0), t)
        return [(1 - share) * found[low] + share * found[high] for low, high, share in asked]

    def bound(self, sample: Sample, kept: frozenset[str]):  # type: ignore[no-untyped-def]
        """(x_t, t) -> the network's features and x0_hat, along the main process."""
        proposal = sample.proposal
        seen = proposal if self.denoiser.use_proposal else None
        shift = proposal if any(self.process.r) else None
        encoded = self._encoded(sample.context, kept)
        at = self.denoiser.bound(self.process, (*self.levels, 0), encoded, Inputs(seen, shift))
        return lambda x, t: at(x, x, t)

    def _encoded(self, context: Context, kept: frozenset[str]) -> Tensor:
        everything = torch.ones(len(context), dtype=torch.bool)
        drop = {
            name: everything
            for name in self.conditions
            if name not in kept and name not in (PROPOSAL, "task")
        }
        if "task" in self.conditions and "task" not in kept:
            tasks = self.model.tasks
            assert tasks is not None
            context = replace(context, task=tasks.dropped(context.given("task"), everything))
        return self.denoiser.encode(context, drop)

    def _between(self, noise: float) -> tuple[int, int, float]:
        """The levels of plain DDPM around a noise to signal, and how far it is to the second."""
        plain = self.plain
        ratios = [math.log(plain.sigma[t] / max(plain.a[t], 1e-9)) for t in range(1, plain.T + 1)]
        wanted = math.log(noise)
        if wanted <= ratios[0]:
            return 1, 1, 0.0
        for i in range(1, len(ratios)):
            if wanted <= ratios[i]:
                return i, i + 1, (wanted - ratios[i - 1]) / (ratios[i] - ratios[i - 1])
        return plain.T, plain.T, 0.0

    def squares(self, x: Tensor) -> Tensor:
        """Sums of squares [B] over the entries that are planned."""
        return (x.square() * self.free).sum((1, 2))
