"""The reverse chain of some settings: where it starts, which levels it visits, what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.diffusion.gaussian import Gaussian, Jump, jump
from diffplan.diffusion.grids import GRIDS, consecutive_grid, time_grid
from diffplan.diffusion.guidance import GUIDE_STEPS
from diffplan.diffusion.process import FAR, Process
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError
from diffplan.model.denoiser import Denoiser
from diffplan.model.planner_model import PlannerModel
from diffplan.model.streams import Levels, StreamDenoiser, schedule

# of plans that go on from the one before: these are better than a proposal, so that a little of
# both is enough
_REUSE_STEPS, _REUSE_LEVEL = 1, 2


@dataclass(frozen=True)
class Chain:
    """What the reverse steps of every plan have in common: `chain_of` makes it once.

    start: how x at grid[0] is made, one of `STARTS`. grid: table indices to visit. time:
    [len(grid) - 1, F] features of their levels. network: what denoises. jump: to x at grid[0]
    from noise and conditions, where `STARTS` has none.
    """

    start: str
    process: Process
    grid: tuple[int, ...]
    time: Tensor
    network: Denoiser
    jump: Jump | None = None


@dataclass(frozen=True)
class StreamChain:
    """As `Chain`, of streams. grid: that of the states. levels: those of all streams."""

    start: str
    process: Process
    grid: tuple[int, ...]
    time: Tensor
    network: StreamDenoiser
    levels: tuple[Levels, ...]


@torch.no_grad()
def chain_of(
    model: PlannerModel, settings: PlanningConfig, reuse: bool = False
) -> Chain | StreamChain | None:
    """The reverse chain of these settings; None where proposals are not refined.

    reuse: the one of plans that go on from the plan before: its few states are better than a
    proposal, so it starts at a low level of the same process.
    Raises DiffplanError for settings that the model was not trained for.
    """
    heads = model.config.heads
    if settings.start == "none":
        if heads.facts.needs_denoiser:
            raise DiffplanError(
                f"planning.start is 'none', but actions and values come from the denoiser "
                f"(heads.kind {heads.kind}), which must be run; expected another start"
            )
        return None
    if model.streams is not None:
        return _stream_chain(model, model.streams, settings)
    if model.denoiser is None:
        raise DiffplanError(
            f"planning.start is {settings.start!r}, which needs a denoiser, but this model was "
            "trained without one (config proposer-only); expected 'none'"
        )
    if settings.value_guidance and model.noisy_value is None:
        raise DiffplanError(
            f"planning.value_guidance is {settings.value_guidance:g}, but this model has no value "
            "of noisy plans, which is learned where it is above 0 in training; expected 0"
        )
    steps = _REUSE_STEPS if reuse else settings.denoising_steps
    if heads.facts.needs_denoiser and steps == 0:
        raise DiffplanError(
            "planning.denoising_steps is 0, but actions and values come from the denoiser "
            f"(heads.kind {heads.kind}), which must be run at least once"
        )
    if steps == 0 and settings.proposes:
        return None  # the proposal is the plan
    process, grid = _levels(model, settings)
    start: str = "process" if settings.start == "noise" else settings.start
    if reuse:
        start, grid = "sdedit", time_grid(min(_REUSE_LEVEL, process.T), steps)
    sampler = SAMPLERS[settings.sampler]
    sampler.check(process, grid, model.statistics)
    levels = sampler.levels(grid)[:-1]
    model.denoiser.check_process(process, levels)
    # once for all plans: neither levels nor weights change
    time = model.denoiser.time_table(tuple(t / process.T for t in levels))
    leap = None
    if start == "teleport":
        leap = jump(_gaussian_of(model), process, grid[0], time.device)
    return Chain(start, process, grid, time, model.denoiser, leap)


def _stream_chain(
    model: PlannerModel, streams: StreamDenoiser, settings: PlanningConfig
) -> StreamChain:
    """States from where they start, actions from noise, the return as asked for."""
    suits = SAMPLERS[settings.sampler].by_stream and not settings.eta
    if not suits or settings.start in ("process", "teleport"):
        raise DiffplanError(
            "heads.kind streams takes DDIM steps without noise from planning.start noise, sdedit "
            f"or raw, got sampler {settings.sampler!r}, eta {settings.eta:g} and start "
            f"{settings.start!r}"
        )
    if settings.guidance_weight != 1.0:
        raise DiffplanError(
            f"planning.guidance_weight is {settings.guidance_weight:g}, but heads.kind streams has "
            "no classifier-free guidance; expected 1, the conditional model"
        )
    process, grid = _levels(model, settings)
    asked = {"returns": 0} if model.use_returns else {}
    levels = schedule(
        process, settings.denoising_steps, states=(grid[0], 0), actions=(process.T, 0), **asked
    )
    start = "process" if settings.start == "noise" else settings.start
    time = streams.schedule_features(process, levels)
    return StreamChain(start, process, grid, time, streams, levels)


def network_calls(model: PlannerModel, settings: PlanningConfig) -> int:
    """Networks that one plan from scratch calls one after the other, candidates at once.

    Proposer steps, denoiser evaluations (one, of twice the rows, for a guided one) and value
    gradients.
    """
    calls = 0
    if settings.proposes and model.proposer is not None:
        calls += model.config.plan.horizon if model.proposer.autoregressive else 1
    chain = chain_of(model, settings)
    if chain is None:
        return calls
    asks = settings.candidates > 1
    if isinstance(chain, StreamChain):
        return calls + len(chain.grid) - 1 + asks
    if asks and model.config.has_head("returns"):  # the denoiser once more
        calls += model.use_returns or model.tells_of_states
    steps = len(chain.grid) - 1
    calls += SAMPLERS[settings.sampler].evaluations(steps) if steps else 0
    if settings.value_guidance:  # not in the last step
        guided = sum(t >= settings.value_guidance_until for t in chain.grid[:-2])
        calls += GUIDE_STEPS * guided
    return calls


def _levels(model: PlannerModel, settings: PlanningConfig) -> tuple[Process, tuple[int, ...]]:
    """The process and the table indices to visit."""
    if settings.start == "process":
        process = model.main_process
        if process.a[-1] > FAR:
            raise DiffplanError(
                f"planning.start is 'process', but the denoiser's process ends at a = "
                f"{process.a[-1]:.2f} (expected at most {FAR}); expected 'sdedit' or 'raw'"
            )
        return process, GRIDS[settings.grid](process, process.T, settings.denoising_steps)
    process = model.plain_process
    if not settings.proposes and process.a[-1] > FAR:
        raise DiffplanError(
            f"planning.start is {settings.start!r}, but the schedule ends at a = "
            f"{process.a[-1]:.2f}, far from noise (expected at most {FAR}); train with "
            "--denoiser.schedule cosine"
        )
    if settings.start == "noise":
        return process, GRIDS[settings.grid](process, process.T, settings.denoising_steps)
    if settings.start == "teleport":
        spread = _gaussian_of(model).spread
        level = settings.start_level or _level_of(model, spread, settings)
    elif settings.start == "raw":
        level = settings.start_level or settings.denoising_steps
    else:
        level = settings.start_level or matching_level(model, settings)
    if level > process.T:
        raise DiffplanError(
            f"planning.start_level is {level}, expected at most {process.T}, the schedule's length"
        )
    if level == settings.denoising_steps:
        return process, consecutive_grid(level)
    return process, GRIDS[settings.grid](process, level, settings.denoising_steps)


def matching_level(model: PlannerModel, settings: PlanningConfig) -> int:
    """The level whose noise-to-signal ratio is the proposals' held-out error, at least the steps.

    Much below it the error stays, much above it the proposal is forgotten (SDEdit, arXiv
    2108.01073, section 4.1).
    """
    return _level_of(model, model.residual_level, settings)


def _gaussian_of(model: PlannerModel) -> Gaussian:
    if model.gaussian is None:
        raise DiffplanError(
            "planning.start is 'teleport', but this model has no Gaussian of its plans; load it "
            "from a run that `diffplan calibrate RUN --start teleport` has measured"
        )
    return model.gaussian


def _level_of(model: PlannerModel, noise: float, settings: PlanningConfig) -> int:
    """The level nearest to this noise to signal, at least the steps."""
    process = model.plain_process
    levels = range(1, process.T + 1)
    nearest = min(levels, key=lambda t: abs(process.sigma[t] / process.a[t] - noise))
    return max(nearest, settings.denoising_steps)
