"""Losses of what denoises plans: the denoiser, its heads, streams, and the value of noisy plans.

Everything here is in plan units.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffplan.data.batches import Valued, Windows
from diffplan.diffusion.forward import q_sample
from diffplan.model.context import Context
from diffplan.model.denoiser import Denoiser, Noising, Samples
from diffplan.model.modalities import MODALITIES, Taken, Told
from diffplan.model.multi_task import MultiTaskDenoiser
from diffplan.model.planner_model import PlannerModel
from diffplan.model.streams import StreamDenoiser, draw_levels
from diffplan.model.value import NoisyValue

_TAKEN = 4  # actions that every noised window teaches
_KNOWN_SHARE = 0.5  # of samples in which the process holds what a head tells: half are asked


def weighted(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean of per-window losses [B] by weight [B]: a scalar."""
    return (weight * loss).sum() / weight.sum().clamp(min=1e-6)


def _clean(model: PlannerModel, windows: Windows) -> Tensor:
    """The windows as plan tensors [B, rows, D]."""
    actions = windows.actions if model.config.actions_in_plan else None
    return model.to_plan(windows.states[:, 0], windows.states[:, 1:], actions)


def denoiser_losses(
    model: PlannerModel,
    denoiser: Denoiser,
    windows: Windows,
    context: Context,
    proposed: Tensor | None,
    plain: Windows | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of the main process and of plain DDPM, from one pass through the network.

    Every window of the main share is noised `draws` times: the draws share its proposal,
    which is what costs. Plain windows need no proposal and are drawn once each.
    """
    options = model.config.denoiser
    draws, there = options.noise_draws, generator.device
    x0 = _clean(model, windows).repeat_interleave(draws, 0)
    mask = model.row_mask(windows.mask).repeat_interleave(draws, 0)
    contexts, weight, main = context.repeat(draws), windows.weight, len(x0)
    weight = weight.repeat_interleave(draws)
    if plain is not None:
        x0 = torch.cat([x0, _clean(model, plain)])
        mask = torch.cat([mask, model.row_mask(plain.mask)])
        contexts = contexts.joined(model.context_of(plain, generator))
    is_plain = torch.arange(len(x0), device=x0.device) >= main  # main rows first, then plain
    x_hat: Tensor | None = None
    if proposed is not None and options.uses_proposals:
        x_hat = model.to_plan(context.state, proposed)
        # plain rows are told that there is none; what stands there is not looked at
        x_hat = torch.cat([x_hat.repeat_interleave(draws, 0), x0[main:]])

    def uniform() -> Tensor:
        return torch.rand(len(x0), generator=generator, device=there).to(x0.device)

    chances = {
        "goal": options.drop_condition,
        "target_return": options.drop_condition,
    }
    drop = {name: uniform() < chance for name, chance in chances.items() if chance}
    levels = uniform()
    noise = torch.randn(x0.shape, generator=generator, device=there).to(x0.device)
    if options.prediction == "velocity":
        # Albergo et al. 2023, section 6: gamma' grows at both ends, both signs cancel that
        noise[1:main:2], levels[1:main:2] = -noise[:main:2], levels[:main:2]
    # drawn last: plans learn from the same numbers with heads and without
    told = None
    if isinstance(denoiser, MultiTaskDenoiser):
        told = _told(model, denoiser, windows, plain, generator)
    loss = denoiser.loss(
        Samples(x0, x_hat, is_plain, levels, noise, contexts, drop, mask, told),
        Noising(
            model.main_process,
            model.plain_process,
            model.noise_scale,
            model.held(),
            model.loss_weights(),
        ),
    )
    of_plan = loss.pop("plan")
    losses = {"denoiser": weighted(of_plan[:main], weight)}
    if plain is not None:
        losses["denoiser_plain"] = weighted(of_plan[main:], plain.weight)
        weight = torch.cat([weight, plain.weight])
    return losses | {f"head_{name}": weighted(each, weight) for name, each in loss.items()}


def _told(
    model: PlannerModel,
    denoiser: MultiTaskDenoiser,
    windows: Windows,
    plain: Windows | None,
    generator: torch.Generator,
) -> Told:
    """What the heads should tell of every row that the denoiser sees."""
    draws = model.config.denoiser.noise_draws
    values, weights, known = {}, {}, {}
    for name in denoiser.heads.names:
        value, weight = MODALITIES[name].read(model, windows)
        value, weight = (x.repeat_interleave(draws, 0) for x in (value, weight))
        if plain is not None:
            more = MODALITIES[name].read(model, plain)
            value, weight = torch.cat([value, more[0]]), torch.cat([weight, more[1]])
        values[name], weights[name] = value, weight
        if model.plain_process.c:
            share = torch.rand(len(value), generator=generator, device=generator.device)
            known[name] = share.to(value.device) < _KNOWN_SHARE
    start = windows.states[:, 0].repeat_interleave(draws, 0)
    taken = None
    if denoiser.heads.acting is not None:
        taken = _taken(model, windows, draws, generator)
    if plain is not None:
        start = torch.cat([start, plain.states[:, 0]])
        if taken is not None:
            taken = taken.joined(_taken(model, plain, 1, generator))
    return Told(values, weights, known, model.path_from(start), taken)


def _taken(model: PlannerModel, windows: Windows, draws: int, generator: torch.Generator) -> Taken:
    """Some actions of every window, others for each of its noise draws."""
    plan = model.config.plan
    shape = len(windows.states) * draws, _TAKEN
    steps, there = plan.horizon * plan.stride, generator.device
    step = torch.randint(steps, shape, generator=generator, device=there)
    towards = windows.states.repeat_interleave(draws, 0)
    return replace(_taken_at(model, windows, step, draws), towards=towards)


def _taken_at(model: PlannerModel, windows: Windows, step: Tensor, draws: int = 1) -> Taken:
    """The actions of the windows at steps [B * draws, n]."""
    actions, acting, between = windows.actions, windows.acting, windows.between
    assert actions is not None and acting is not None and between is not None
    step = step.to(acting.device)
    row = torch.arange(len(acting), device=acting.device).repeat_interleave(draws).unsqueeze(1)
    return Taken(
        step,
        between.flatten(1, 2)[row, step],
        actions.flatten(1, 2)[row, step],
        acting[row, step // model.config.plan.stride],
    )


def proposals_loss(
    model: PlannerModel,
    denoiser: MultiTaskDenoiser,
    windows: Windows,
    context: Context,
    proposed: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """What the head of actions says of proposals [B, H, D], against the data's actions.

    Where plans start from raw proposals, the last pass sees something between these and data, and
    a head that has only ever seen data takes the error for intention.
    """
    start = context.state
    # further on the window is no longer where the proposal is
    shape, there = (len(start), 1), generator.device
    step = torch.randint(model.config.plan.stride, shape, generator=generator, device=there)
    told = Told({}, {}, {}, model.path_from(start), _taken_at(model, windows, step))
    x = model.to_plan(start, proposed)
    found = denoiser.telling_loss(model.plain_process, 1, x, context, None, told)
    return weighted(found["actions"], windows.weight)


def state_values_loss(
    model: PlannerModel, denoiser: MultiTaskDenoiser, valued: Valued, context: Context
) -> Tensor:
    """What the head of returns says of states with a goal and without a plan.

    Candidates with a goal are judged by where they get to, see `selection.evaluate`; windows alone
    teach that too little.
    """
    start, returns = context.state, valued.returns
    told = Told(
        {"returns": returns.unsqueeze(-1)},
        {"returns": torch.ones_like(returns)},
        {},
        model.path_from(start),
    )
    drop = {"target_return": torch.ones(len(start), dtype=torch.bool, device=start.device)}
    # at the last level a plan says nothing: what is told depends on state and goal alone
    blank = torch.zeros(len(start), model.rows, model.plan_dim, device=start.device)
    process = model.plain_process
    found = denoiser.telling_loss(process, process.T, blank, context, drop, told)
    return found["returns"].mean()


def stream_losses(
    model: PlannerModel,
    streams: StreamDenoiser,
    windows: Windows,
    context: Context,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of states, actions and return, noised independently."""
    options, process = model.config.denoiser, model.plain_process
    assert windows.actions is not None and windows.acting is not None  # the config asks for them
    states, returns = windows.states, windows.returns[:, 0]
    x0 = model.to_plan(states[:, 0], states[:, 1:], windows.actions, returns)
    draws = options.noise_draws
    x0, context = x0.repeat_interleave(draws, 0), context.repeat(draws)
    mask, acting, weight = (
        x.repeat_interleave(draws, 0) for x in (windows.mask, windows.acting, windows.weight)
    )
    drop = {}
    there = generator.device
    if chance := options.drop_condition:
        share = torch.rand(len(x0), generator=generator, device=there)
        drop["goal"] = (share < chance).to(x0.device)
    levels = draw_levels(len(x0), process, generator).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=there).to(x0.device)
    noise = streams.noise(noise)
    found = streams.loss(process, x0, levels, noise, context, drop, mask, acting)
    return {f"stream_{name}": weighted(each, weight) for name, each in found.items()}


def noisy_value_loss(
    model: PlannerModel,
    value: NoisyValue,
    windows: Windows,
    context: Context,
    generator: torch.Generator,
) -> Tensor:
    """Squared error of the value of noised plans, at the levels planning comes through."""
    x0, process = _clean(model, windows), model.plain_process
    there = generator.device
    t = torch.randint(1, process.T + 1, (len(x0),), generator=generator, device=there).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=there).to(x0.device)
    x_t = q_sample(process, t, x0, None, noise)
    if (held := model.held()) is not None:
        x_t = torch.where(held, x0, x_t)
    found = value(x_t, t / process.T, model.value_condition(context))
    return weighted((found - windows.returns[:, 0]).square(), windows.weight)
