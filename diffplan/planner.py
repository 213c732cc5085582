"""plan = decode( select( optimise( propose(context) ) ) )

Four stages, each a function, data flowing one way. Everything here is normalised; random numbers
come in as tensors, so a plan is a pure function of its arguments and row b depends on row b alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from diffplan import guidance
from diffplan.config import PlanningConfig
from diffplan.errors import DiffplanError
from diffplan.model import PlannerModel
from diffplan.process import STARTS, Process, consecutive_grid, time_grid
from diffplan.proposal import Proposal
from diffplan.samplers import SAMPLERS, Sampler

_CHECK_EVERY = 4  # plan states between two looks at a plan's progress
_EXCESS_WEIGHT = 2.0
_LEAST_RETURN = 1e-3  # the value network resolves no less
_FULL_NOISE = 0.05  # a chain whose last a_t is larger never reaches noise


@dataclass(frozen=True)
class Context:
    """What is known when a plan is asked for.

    state: [B, D] normalised. goal: [B, G] normalised or None. returns: [B] normalised target
    return-to-go or None. previous: [B, M, D] normalised, the M < H states that are left of the
    plan before (`planning.reuse`), None for a plan from scratch.
    """

    state: Tensor
    goal: Tensor | None
    returns: Tensor | None
    previous: Tensor | None = None


@dataclass(frozen=True)
class Noise:
    """Standard random numbers of one plan, drawn outside.

    propose: [B, K, H, D+1] normal. start: [B, K, rows, D] normal. steps: [n, B, K, rows, D]
    normal, one per reverse step, None for a deterministic sampler. select: [B, K] Gumbel.
    """

    propose: Tensor
    start: Tensor
    steps: Tensor | None
    select: Tensor


@dataclass(frozen=True)
class Plan:
    """Every stage's outcome, normalised; state index 0 is the current state.

    proposal: [B, K, H+1, D], before refinement (the candidates themselves without a proposer).
    candidates: [B, K, H+1, D], after it. values: [B, K]. chosen: [B] index into K.
    states: [B, H+1, D], the chosen candidate. returns: [B, K, H] proposed returns-to-go, None
    without a proposer.
    """

    proposal: Tensor
    candidates: Tensor
    values: Tensor
    chosen: Tensor
    states: Tensor
    returns: Tensor | None


@dataclass(frozen=True)
class Chain:
    """What the reverse steps of every plan have in common: `chain_of` makes it once.

    start: how x at grid[0] is made, one of `STARTS`. grid: table indices to visit. time:
    [len(grid) - 1, F] features of their levels.
    """

    start: str
    process: Process
    grid: tuple[int, ...]
    time: Tensor


@torch.no_grad()
def chain_of(model: PlannerModel, settings: PlanningConfig, reuse: bool = False) -> Chain | None:
    """The reverse chain of these settings; None where proposals are not refined.

    reuse: the one of plans that go on from the plan before: its few states are better than a
    proposal, so it starts at a low level of the same process.
    Raises DiffplanError for settings that the model was not trained for.
    """
    if settings.start == "none":
        return None
    if model.denoiser is None:
        raise DiffplanError(
            f"planning.start is {settings.start!r}, which needs a denoiser, but this model was "
            "trained without one (config proposer-only); expected 'none'"
        )
    steps = settings.reuse_steps if reuse else settings.steps
    if steps == 0 and settings.start != "noise":
        return None
    process, grid = _levels(model, settings)
    start: str = settings.start
    if reuse:
        start, grid = "sdedit", time_grid(min(settings.reuse_level, process.T), steps)
    model.denoiser.check_process(process, grid[:-1])
    time = model.denoiser.time_table(tuple(t / process.T for t in grid[:-1]))
    return Chain(start, process, grid, time)


def make_plan(
    model: PlannerModel,
    context: Context,
    noise: Noise,
    settings: PlanningConfig,
    chain: Chain | EllipsisType | None = ...,
    *,
    valued: bool = True,
) -> Plan:
    """Propose K trajectories per row, optimise them, select one. See `Plan` for shapes.

    chain: `chain_of` the same model and settings, where it is at hand (None: no refining). valued:
    False leaves the values NaN where they choose nothing. Decoding, the fourth stage, happens at
    every environment step: `decode`.
    """
    rows, k = context.state.shape[0], settings.k
    proposal = propose(model, context, noise.propose, settings)
    context = _repeat(context, k)
    start = context.state
    x = optimise(model, context, proposal, noise, settings, chain)
    candidates = model.from_plan(start, x)
    if proposal is None:
        proposed, later = candidates, None
    else:
        proposed = torch.cat([start[:, None], proposal.states], 1)
        later = proposal.returns.unflatten(0, (rows, k))
    if valued or (k > 1 and settings.select != "first"):
        values = evaluate(model, context, candidates).unflatten(0, (rows, k))
    else:
        values = candidates.new_full((rows, k), math.nan)
    chosen = select(values, noise.select, settings)
    candidates = candidates.unflatten(0, (rows, k))
    if k == 1 or settings.select == "first":
        states = candidates[:, 0]
    else:
        states = candidates[torch.arange(rows, device=chosen.device), chosen]
    return Plan(proposed.unflatten(0, (rows, k)), candidates, values, chosen, states, later)


def propose(
    model: PlannerModel, context: Context, noise: Tensor, settings: PlanningConfig
) -> Proposal | None:
    """Stage 1: K proposals per row [B] of the context, in rows [B*K]; None from noise.

    noise: [B, K, H, D+1], of the states that are proposed. Candidate 0 of each row is the
    proposer's mean, the others are drawn at the configured temperature; at temperature 0 the mean
    is proposed once and copied. Of a plan that goes on from the one before only the missing tail is
    proposed, in the returns of a proposal NaN stands before it.
    """
    if settings.start == "noise":
        return None
    if model.proposer is None:
        raise DiffplanError(
            f"planning.start is {settings.start!r}, which needs a proposer, but this model was "
            "trained without one (config from-noise); expected 'noise'"
        )
    k = settings.k
    sampled = k > 1 and settings.temperature > 0
    scaled = None
    if sampled:
        context = _repeat(context, k)
        keep_mean = torch.arange(k, device=noise.device).ne(0)
        scaled = (noise * (settings.temperature * keep_mean[:, None, None])).flatten(0, 1)
    returns = context.returns if model.use_returns else None
    kept = context.previous
    if kept is None:
        found = model.proposer.propose(context.state, context.goal, returns, scaled)
    else:
        missing = model.config.plan.horizon - kept.shape[1]
        tail = model.proposer.propose(kept[:, -1], context.goal, returns, scaled, missing)
        unknown = tail.returns.new_full(kept.shape[:2], math.nan)
        found = Proposal(torch.cat([kept, tail.states], 1), torch.cat([unknown, tail.returns], 1))
    if sampled or k == 1:
        return found
    return Proposal(found.states.repeat_interleave(k, 0), found.returns.repeat_interleave(k, 0))


def optimise(
    model: PlannerModel,
    context: Context,
    proposal: Proposal | None,
    noise: Noise,
    settings: PlanningConfig,
    chain: Chain | EllipsisType | None = ...,
    *,
    sampler: Sampler | None = None,
) -> Tensor:
    """Stage 2: a few reverse diffusion steps from the proposal (or from noise): [B*K, rows, D].

    sampler: called in place of the settings' own, to get hold of the denoiser that planning uses.
    """
    start = context.state
    x_hat = None if proposal is None else model.to_plan(start, proposal.states)
    if isinstance(chain, EllipsisType):
        chain = chain_of(model, settings, context.previous is not None)
    if chain is None:
        assert x_hat is not None
        return x_hat
    denoiser = model.denoiser
    assert denoiser is not None
    process, grid = chain.process, chain.grid
    # in training only samples of the main process show the network the proposal
    seen = x_hat if denoiser.use_proposal and process is model.main_process else None
    scale = model.noise_scale if process.scaled else None
    condition = model.condition(start, context.goal, context.returns)
    encoded = denoiser.encode(condition)
    if settings.guidance_weight == 1.0:
        denoise = denoiser.bind(process, grid, encoded, proposal=seen, scale=scale, time=chain.time)
    else:
        everything = torch.ones(len(start), dtype=torch.bool, device=start.device)
        dropped = {"goal": everything, "returns": everything}
        pair = denoiser.pair(
            process,
            grid,
            encoded,
            denoiser.encode(condition, dropped),
            proposal=seen,
            scale=scale,
            time=chain.time,
        )
        denoise = guidance.classifier_free_batched(pair, settings.guidance_weight)
    x = STARTS[chain.start](process, grid[0], x_hat, noise.start.flatten(0, 1), scale)
    if settings.clip is not None:
        denoise = guidance.clip(denoise, settings.clip)
    if model.absolute:  # after the clip: the current state may lie outside
        denoise = guidance.pin(denoise, 0, start)
    steps = None if noise.steps is None else noise.steps.flatten(1, 2)
    options = {"eta": settings.eta} if settings.sampler == "ddim" else {}
    return (sampler or SAMPLERS[settings.sampler])(
        denoise,
        process,
        grid,
        x,
        proposal=x_hat if process.r[grid[0]] else None,
        scale=scale,
        noise=steps,
        **options,
    )


def _levels(model: PlannerModel, settings: PlanningConfig) -> tuple[Process, tuple[int, ...]]:
    """The process and the table indices to visit."""
    if settings.start == "rddm":
        if not model.main_process.scaled:
            raise DiffplanError(
                "planning.start is 'rddm', but the denoiser was trained with process ddpm; "
                "expected 'sdedit', 'published' or 'noise'"
            )
        return model.main_process, time_grid(model.main_process.T, settings.steps)
    process = model.plain_process
    if settings.start == "noise":
        if process.a[-1] > _FULL_NOISE:
            raise DiffplanError(
                f"planning.start is 'noise', but the schedule ends at a = {process.a[-1]:.2f}, far "
                "from noise (expected at most 0.05); train with --denoiser.schedule cosine"
            )
        return process, time_grid(process.T, settings.steps)
    if settings.start == "published":
        level = settings.start_level or settings.steps
    else:
        level = settings.start_level or matching_level(model, settings.steps)
    if level > process.T:
        raise DiffplanError(
            f"planning.start_level is {level}, expected at most {process.T}, the schedule's length"
        )
    if level == settings.steps:
        return process, consecutive_grid(level)
    return process, time_grid(level, settings.steps)


def matching_level(model: PlannerModel, steps: int) -> int:
    """The level whose noise-to-signal ratio is the proposals' held-out error, at least `steps`.

    Much below it the error stays, much above it the proposal is forgotten (SDEdit, arXiv
    2108.01073, section 4.1).
    """
    process, error = model.plain_process, model.residual_level
    ratios = [process.sigma[t] / process.a[t] for t in range(1, process.T + 1)]
    nearest = min(range(process.T), key=lambda i: abs(ratios[i] - error)) + 1
    return max(nearest, steps)


def evaluate(model: PlannerModel, context: Context, candidates: Tensor) -> Tensor:
    """Value of each candidate [B*K, H+1, D] -> [B*K], in normalised returns-to-go.

    Without a goal, V averaged over the plan's future states; with the published critic, Q of the
    current state and first action; with a goal, see `_goal_value` (undiscounted: V of the last
    state).
    """
    if model.value.uses_action:
        lag = torch.ones(len(candidates), device=candidates.device)
        action = model.inverse_dynamics(candidates[:, 0], candidates[:, 1], lag).clamp(-1, 1)
        result: Tensor = model.value(candidates[:, 0], context.goal, action)
        return result
    if context.goal is not None and model.config.data.discount < 1:
        return _goal_value(model, context.goal, candidates)
    if context.goal is not None:
        result = model.value(candidates[:, -1], context.goal)
        return result
    # one state's error would decide which of many similar plans looks best
    average: Tensor = model.value(candidates[:, 1:], None).mean(1)
    return average


def _goal_value(model: PlannerModel, goal: Tensor, candidates: Tensor) -> Tensor:
    """V of the last state, less twice what the plan gains faster than time passes.

    With a goal V = discount^(steps to go), and no real motion saves more steps than it takes. A
    plan that does jumps somewhere, through a wall for instance: the very plans that a maximum over
    candidates would otherwise pick.
    """
    plan = model.config.plan
    states = torch.cat([candidates[:, : plan.horizon : _CHECK_EVERY], candidates[:, -1:]], 1)
    returns = model.returns.inverse(
        model.value(states, goal[:, None].expand(-1, states.shape[1], -1)).unsqueeze(-1)
    ).squeeze(-1)
    discount = model.config.data.discount
    steps = returns.clamp(_LEAST_RETURN, 1.0).log() / math.log(discount)
    saved = steps[:, :-1] - steps[:, 1:]
    rest = plan.horizon % _CHECK_EVERY
    excess = _excess(saved[:, :-1] if rest else saved, plan.stride * _CHECK_EVERY)
    if rest:
        excess = excess + _excess(saved[:, -1:], plan.stride * rest)
    return model.normalised_returns(discount ** (steps[:, -1] + _EXCESS_WEIGHT * excess))


def _excess(saved: Tensor, elapsed: int) -> Tensor:
    """What saved steps to go [B, n] exceed the steps they took by, in sum: [B]."""
    return (saved - elapsed).clamp(min=0).sum(1)


def select(values: Tensor, gumbel: Tensor, settings: PlanningConfig) -> Tensor:
    """Stage 3: one candidate per row from values [B, K]: index [B]."""
    if settings.select == "first" or values.shape[1] == 1:
        return torch.zeros(len(values), dtype=torch.long, device=values.device)
    if settings.select == "softmax":
        # the Gumbel maximum is a draw from the softmax
        return (values + gumbel).argmax(1)
    return values.argmax(1)


def decode(model: PlannerModel, state: Tensor, ahead: Tensor, lag: Tensor) -> Tensor:
    """Stage 4, at every environment step: action towards the plan's next state.

    state: [B, D] and ahead: [B, D] normalised. lag: [B], steps left until `ahead` is due, as a
    fraction of the stride. Returns actions [B, A] in environment units, within the bounds.
    """
    scaled = model.inverse_dynamics(state, ahead, lag).clamp(-1, 1)
    return model.action_low + (scaled + 1) * (model.action_high - model.action_low) / 2


def _repeat(context: Context, k: int) -> Context:
    if k == 1:
        return context
    return Context(
        context.state.repeat_interleave(k, 0),
        None if context.goal is None else context.goal.repeat_interleave(k, 0),
        None if context.returns is None else context.returns.repeat_interleave(k, 0),
        None if context.previous is None else context.previous.repeat_interleave(k, 0),
    )
