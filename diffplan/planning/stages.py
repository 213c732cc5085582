"""plan = decode( select( optimise( propose(context) ) ) )

Four stages, each a function, data flowing one way. Everything here is normalised; random numbers
come in as tensors, so a plan is a pure function of its arguments and row b depends on row b alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.diffusion import guidance
from diffplan.diffusion.forward import STARTS
from diffplan.diffusion.process import Process
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.diffusion.sampling import Denoise
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.denoiser import Inputs
from diffplan.model.modalities import Telling
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.model.value import NoisyValue
from diffplan.planning.chains import Chain, StreamChain
from diffplan.planning.selection import evaluate, select, weighed


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


class Steering(Protocol):
    """What plans are to meet beside their goal or return: `wishes`, `composed`."""

    @property
    def differentiates(self) -> bool:
        """Whether it takes gradients of the networks."""
        ...

    def optimise(
        self,
        model: PlannerModel,
        context: Context,
        proposal: Proposal | None,
        noise: Noise,
        settings: PlanningConfig,
        chain: Chain | StreamChain | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """In place of `optimise`."""
        ...

    def choose(
        self, model: PlannerModel, context: Context, values: Tensor, candidates: Tensor
    ) -> Tensor:
        """In place of `select`: index [B] from values [B, K] and candidates [B*K, H+1, D]."""
        ...

    def violations(self, model: PlannerModel, context: Context, candidates: Tensor) -> Tensor:
        """How far plans [B, H+1, D] are off each of the C constraints: [B, C]."""
        ...


@dataclass(frozen=True)
class NormalisedPlan:
    """Every stage's outcome, normalised; state index 0 is the current state.

    proposal: [B, K, H+1, D], before refinement (the candidates themselves without a proposer).
    candidates: [B, K, H+1, D], after it. values: [B, K]. chosen: [B] index into K.
    states: [B, H+1, D], the chosen candidate. returns: [B, K, H] proposed returns-to-go, None
    without a proposer. actions: [B, H, stride, A] scaled, of the chosen candidate, None where plans
    hold none. features: [B, H, F], what a head of actions keeps of it, None without one.
    violations: [B, C] of the chosen candidate, None where nothing is to be met.
    """

    proposal: Tensor
    candidates: Tensor
    values: Tensor
    chosen: Tensor
    states: Tensor
    returns: Tensor | None
    actions: Tensor | None
    features: Tensor | None = None
    violations: Tensor | None = None


def make_plan(
    model: PlannerModel,
    context: Context,
    noise: Noise,
    settings: PlanningConfig,
    chain: Chain | StreamChain | None,
    *,
    valued: bool = True,
    steering: Steering | None = None,
) -> NormalisedPlan:
    """Propose K trajectories per row, optimise them, select one. See `NormalisedPlan` for shapes.

    chain: `chain_of` the same model and settings; None where nothing is refined. valued: False
    leaves the values NaN where they choose nothing, as they are of a model that tells none.
    steering: what the plans are to meet besides.
    Decoding, the fourth stage, happens at every environment step: `decode`.
    """
    rows, k = context.state.shape[0], settings.candidates
    proposal = propose(model, context, noise.propose, settings)
    # from here on every candidate is a row, so that all are denoised in one pass
    context = context.repeat(k)
    start = context.state
    optimised = optimise if steering is None else steering.optimise
    x, told = optimised(model, context, proposal, noise, settings, chain)
    candidates = model.from_plan(start, x)
    if proposal is None:
        proposed, later = candidates, None
    else:
        proposed = torch.cat([start[:, None], proposal.states], 1)
        later = proposal.returns.unflatten(0, (rows, k))
    asked = k > 1 or (valued and model.ranks)
    if asked and (steering is None or model.ranks):
        values = evaluate(model, context, candidates, x, told).unflatten(0, (rows, k))
    else:
        values = candidates.new_full((rows, k), math.nan)
    if steering is None:
        chosen = select(weighed(model, values), noise.select, settings)
    else:
        chosen = steering.choose(model, context, values, candidates)

    def of_chosen(x: Tensor | None) -> Tensor | None:
        if x is None or k == 1:
            return x
        return x.unflatten(0, (rows, k))[torch.arange(rows, device=x.device), chosen]

    states = of_chosen(candidates)
    assert states is not None
    violations = None
    if steering is not None:
        violations = steering.violations(model, context.rows(slice(None, None, k)), states)
    return NormalisedPlan(
        *(proposed.unflatten(0, (rows, k)), candidates.unflatten(0, (rows, k)), values, chosen),
        *(states, later),
        of_chosen(model.planned_actions(x) if model.config.actions_in_plan else None),
        of_chosen(told.get("kept")),
        violations,
    )


def propose(
    model: PlannerModel, context: Context, noise: Tensor, settings: PlanningConfig
) -> Proposal | None:
    """Stage 1: K proposals per row [B] of the context, in rows [B*K]; None from noise.

    noise: [B, K, H, D+1], of the states that are proposed. Candidate 0 of each row is the
    proposer's mean, the others are drawn at the configured temperature; at temperature 0 the mean
    is proposed once and copied. Of a plan that goes on from the one before only the missing tail is
    proposed, in the returns of a proposal NaN stands before it.
    """
    if not settings.proposes:
        return None
    if model.proposer is None:
        raise DiffplanError(
            f"planning.start is {settings.start!r}, which needs a proposer, but this model was "
            "trained without one (config from-noise); expected 'noise'"
        )
    k = settings.candidates
    sampled = k > 1 and settings.temperature > 0
    scaled = None
    if sampled:
        context = context.repeat(k)
        # one candidate is the mean: it is the best guess where values rank badly
        keep_mean = torch.arange(k, device=noise.device).ne(0)
        scaled = (noise * (settings.temperature * keep_mean[:, None, None])).flatten(0, 1)
    kept = context.previous
    if kept is None:
        found = model.proposer.propose(context, scaled)
    else:
        # the rest of the plan before is better than anything proposed anew
        missing = model.config.plan.horizon - kept.shape[1]
        tail = model.proposer.propose(replace(context, state=kept[:, -1]), scaled, missing)
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
    chain: Chain | StreamChain | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Stage 2: a few reverse diffusion steps from the proposal, or from noise.

    chain: `chain_of` the same model and settings. Returns plan tensors [B*K, rows, D] and what
    heads of the denoiser said of them in its last pass, raw (`Heads.decode`).
    """
    if isinstance(chain, Chain):
        guided = guide(model, context, proposal, settings, chain)
        return walk_back(model, guided, noise, settings, chain), guided.said
    x_hat = None if proposal is None else model.to_plan(context.state, proposal.states)
    if chain is not None:
        return _optimise_streams(model, chain, context, x_hat, noise, settings), {}
    assert x_hat is not None  # from noise there is always a chain
    return x_hat, {}


@dataclass(frozen=True)
class Guided:
    """The denoiser of some plans, with everything that is known of them closed over.

    denoise: under all guidance. x_hat: the proposals [B*K, rows, D], of which shift is what
    the process moves by. scale: its noise [rows, D]. said: where heads write down what they say in
    the last pass. given: the conditions [B*K, C] of a chain that jumps to its first level.
    """

    denoise: Denoise
    x_hat: Tensor | None
    shift: Tensor | None
    scale: Tensor | None
    said: dict[str, Tensor]
    given: Tensor | None = None


def guide(
    model: PlannerModel,
    context: Context,
    proposal: Proposal | None,
    settings: PlanningConfig,
    chain: Chain,
) -> Guided:
    """The denoiser that the reverse steps of these plans will ask, as planning uses it."""
    start, process = context.state, chain.process
    x_hat = None if proposal is None else model.to_plan(start, proposal.states)
    scale = model.noise_scale if process.scaled else None
    shift = x_hat if any(process.r[t] for t in chain.grid) else None
    # in training only samples of the main process show the network the proposal
    shown = chain.network.use_proposal and process is model.main_process
    said: dict[str, Tensor] = {}
    telling = None
    if model.multi_task is not None:
        # with a goal heads are asked of states, made for a return once more
        once = model.config.has_head("returns") and context.goal is None and not model.use_returns
        asked = ("returns",) if once else ()
        telling = Telling(model.path_from(start), _known(model, context), asked, said=said)
    inputs = Inputs(x_hat if shown else None, shift, chain.time, telling)
    denoise = _guided(model, chain, context, inputs, settings)
    given = None if chain.jump is None else chain.network.encoder.flat(context)
    return Guided(denoise, x_hat, shift, scale, said, given)


def walk_back(
    model: PlannerModel, guided: Guided, noise: Noise, settings: PlanningConfig, chain: Chain
) -> Tensor:
    """All reverse steps of a chain by the sampler of the settings: [B*K, rows, D]."""
    process, grid, stepping = chain.process, chain.grid, SAMPLERS[settings.sampler]
    steps = None if noise.steps is None else settings.noise_scale * noise.steps.flatten(1, 2)
    return stepping.run(
        guided.denoise,
        process,
        grid,
        start_of(guided, noise, settings, chain),
        proposal=guided.shift,
        scale=guided.scale,
        noise=steps,
        **stepping.options(eta=settings.eta, statistics=model.statistics),
    )


def start_of(guided: Guided, noise: Noise, settings: PlanningConfig, chain: Chain) -> Tensor:
    """Where the chain begins [B*K, rows, D]."""
    first = settings.noise_scale * noise.start.flatten(0, 1)
    if chain.jump is not None and guided.given is not None:
        return chain.jump(first, guided.given)
    return STARTS[chain.start](chain.process, chain.grid[0], guided.x_hat, first, guided.scale)


def _guided(
    model: PlannerModel, chain: Chain, context: Context, inputs: Inputs, settings: PlanningConfig
) -> Denoise:
    """The denoiser of these plans under all guidance that is asked for, in the order it acts."""
    denoiser, process, stepping = chain.network, chain.process, SAMPLERS[settings.sampler]
    asked, encoded = stepping.levels(chain.grid), denoiser.encode(context)
    if settings.guidance_weight == 1.0:
        denoise = denoiser.bind(process, asked, encoded, inputs)
    else:
        without = denoiser.encode_nothing(context)
        pair = denoiser.pair(process, asked, encoded, without, inputs)
        denoise = guidance.classifier_free_batched(pair, settings.guidance_weight)
    if model.noisy_value is not None and settings.value_guidance:
        denoise = guidance.value_gradient(
            denoise,
            _value_gradient(model, model.noisy_value, context, process),
            process,
            settings.value_guidance,
            settings.value_guidance_until,
            chain.grid,
            stepping.eta(settings.eta),
        )
    return held(denoise, model, context, settings)


def held(
    denoise: Denoise, model: PlannerModel, context: Context, settings: PlanningConfig
) -> Denoise:
    """The denoiser whose plans keep to the clip and to the states that are known."""
    if settings.clip is not None:
        denoise = guidance.clip(denoise, settings.clip)
    if model.absolute:  # after the clip: the current state may lie outside
        denoise = guidance.pin(denoise, 0, model.pinned_start(context.state))
    if model.config.plan.pin_goal and context.goal is not None:
        denoise = guidance.pin(denoise, -1, context.goal, model.spec.planned_goal_columns)
    return denoise


def _optimise_streams(
    model: PlannerModel,
    chain: StreamChain,
    context: Context,
    x_hat: Tensor | None,
    noise: Noise,
    settings: PlanningConfig,
) -> Tensor:
    """Plan tensors [B*K, rows, D] with states and actions, and the return that was asked for."""
    streams, columns = chain.network, chain.network.columns
    x = settings.noise_scale * streams.noise(noise.start.flatten(0, 1))
    # a return that is asked for is given, clean from the start; else it is denoised, too
    told = x[..., columns.returns]
    if model.use_returns and context.target_return is not None:
        told = context.target_return.view(-1, 1, 1).expand_as(told)
    states = x[..., columns.states]
    states = STARTS[chain.start](chain.process, chain.grid[0], x_hat, states, None)
    x = torch.cat([states, x[..., columns.actions], told], -1)
    encoded = streams.encoder(context)  # once per plan: conditions do not change with the level
    return streams.sample(chain.process, chain.levels, x, encoded, chain.time, settings.clip)


def _known(model: PlannerModel, context: Context) -> dict[str, Tensor]:
    """Data of the heads that are given before there is a plan."""
    known: dict[str, Tensor] = {}
    if model.config.has_head("returns") and context.target_return is not None:
        known["returns"] = context.target_return.unsqueeze(-1)
    if model.config.has_head("goal") and context.goal is not None:
        known["goal"] = context.goal
    return known


def _value_gradient(
    model: PlannerModel, value: NoisyValue, context: Context, process: Process
) -> guidance.Gradient:
    """Gradient of the noisy value in x_t, for the rows of the context."""
    condition, held = model.value_condition(context), model.held()

    def worth(x: Tensor, level: Tensor, given: Tensor) -> Tensor:
        # in the units of the data's returns, as published weights are meant
        return model.returns.std[0] * value(x, level, given).sum()

    slope = torch.func.grad(worth)

    def gradient(x: Tensor, t: int) -> Tensor:
        # what engines make in inference mode cannot be differentiated, copies can
        with torch.inference_mode(False):
            level = torch.full((len(x),), t / process.T, device=x.device)
            found: Tensor = slope(x.clone(), level, condition.clone())
        return found if held is None else found.masked_fill(held, 0.0)

    return gradient


def decode(
    model: PlannerModel, state: Tensor, ahead: Tensor, lag: Tensor, features: Tensor | None = None
) -> Tensor:
    """Stage 4, at every environment step: action towards the plan's next state.

    state: [B, D] and ahead: [B, P], of the planned columns, normalised. lag: [B], steps left until
    `ahead` is due, in strides. features: [B, F], what a head of actions kept of `ahead`. Returns
    actions [B, A] in environment units, within the bounds.
    Raises DiffplanError where plans bring their actions instead.
    """
    acting = None if model.multi_task is None else model.multi_task.heads.acting
    if acting is not None and features is not None:
        return model.environment_actions(acting(features, state, ahead, lag))
    if model.inverse_dynamics is None:
        raise DiffplanError(
            f"this model has no inverse dynamics (heads.kind {model.config.heads.kind}) to decode "
            "with; take the actions that its plans bring (`NormalisedPlan.actions`)"
        )
    return model.environment_actions(model.inverse_dynamics.lead(state, ahead, lag))
