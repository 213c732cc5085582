"""What one joint update minimises: the losses of every part, from one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.data.batches import Batch, Step, Valued, Windows
from diffplan.diffusion.forward import q_sample
from diffplan.model.conditions import Condition
from diffplan.model.denoiser import Told
from diffplan.model.modalities import MODALITIES
from diffplan.model.planner_model import PlannerModel
from diffplan.model.streams import StreamDenoiser, draw_levels
from diffplan.model.value import Value


class Objective(nn.Module):
    """A model and what it minimises; what is wrapped for training on several devices."""

    def __init__(self, model: PlannerModel) -> None:
        super().__init__()
        self.model = model
        heads, options = model.config.heads, model.config.denoiser
        follows = heads.follow_proposals and model.proposer is not None
        self.follows_proposals = follows and model.inverse_dynamics is not None
        """Whether the inverse dynamics also learns what to do where a proposal leads."""
        self.tells_of_proposals = heads.follow_proposals and model.config.tells("actions")
        """Whether the head of actions learns from proposals, too."""
        self.plain_rows = 0
        """Windows without a proposal that an update needs, so that they are `plain_share`."""
        if model.denoiser is not None and options.use_proposal:
            rows = model.config.training.batch_size * options.draws
            self.plain_rows = round(rows * options.plain_share / (1 - options.plain_share))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one joint update, one entry per part; their sum is minimised."""
        model, windows = self.model, batch.windows
        losses: dict[str, Tensor] = {}
        z = model.states(windows.states)
        goal, returns = model.goal(windows.goals), model.normalised_returns(windows.returns)
        proposed: Tensor | None = None
        task = model.task_code(windows, generator)
        if model.proposer is not None:
            loss, proposal = model.proposer.loss(z, goal, returns, windows.mask, task)
            losses["proposer"] = _weighted(loss, windows.weight)
            proposed = proposal.states
        if model.denoiser is not None:
            losses |= _denoiser_losses(model, windows, task, proposed, batch.plain, generator)
        if self.tells_of_proposals and proposed is not None:
            losses["head_followed"] = _telling_loss(model, windows, task, proposed)
        if model.tells_of_states and batch.valued is not None:
            losses["head_states"] = _state_value_loss(model, batch.valued, generator)
        if model.streams is not None:
            losses |= _stream_losses(model, model.streams, windows, task, generator)
        if model.noisy_value is not None:
            losses["noisy_value"] = _noisy_value_loss(model, windows, generator)
        if model.inverse_dynamics is not None and batch.transitions is not None:
            step = batch.transitions
            losses["inverse_dynamics"] = model.inverse_dynamics.loss(
                model.states(step.states),
                model.states(step.ahead),
                step.lag / model.config.plan.stride,
                model.scaled_actions(step.actions),
            )
        if batch.followed is not None:
            losses["inverse_dynamics_proposed"] = _following_loss(model, batch.followed)
        if model.value is not None and batch.valued is not None:
            losses["value"] = _value_loss(model, model.value, batch.valued, generator)
        return losses


def _value_loss(
    model: PlannerModel, value: Value, valued: Valued, generator: torch.Generator
) -> Tensor:
    returns_to_go = model.normalised_returns(valued.returns)
    task = model.task_code(valued, generator)
    if valued.step is not None:
        returns_to_go = _bootstrapped(model, value, valued, valued.step, task)
    return value.loss(
        model.states(valued.states),
        model.goal(valued.goals),
        model.scaled_actions(valued.actions) if value.uses_action else None,
        returns_to_go,
        task,
    )


def _bootstrapped(
    model: PlannerModel, value: Value, valued: Valued, step: Step, task: Tensor | None = None
) -> Tensor:
    """Reward plus discounted value one step on, normalised [B]."""
    if model.training:
        value.follow()
    ahead = value.ahead(model.states(step.states), model.goal(valued.goals), task)
    ahead = model.returns.inverse(ahead.unsqueeze(-1)).squeeze(-1)
    discount = model.config.data.discount
    return model.normalised_returns(step.rewards + discount * (1 - step.ended) * ahead)


def _denoiser_losses(
    model: PlannerModel,
    windows: Windows,
    task: Tensor | None,
    proposed: Tensor | None,
    plain: Windows | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of the main process and of plain DDPM, from one pass through the network.

    Every window of the main share is noised `draws` times: the draws share its proposal,
    which is what costs. Plain windows need no proposal and are drawn once each.
    """
    assert model.denoiser is not None
    options = model.config.denoiser
    rows = [_denoiser_rows(model, windows, options.draws, task)]
    if plain is not None:
        rows.append(_denoiser_rows(model, plain, 1, model.task_code(plain, generator)))
    x0, mask = torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows])
    parts = [r[2] for r in rows]
    condition = Condition(
        *(
            None
            if (first := getattr(parts[0], name)) is None
            else torch.cat([first, *(getattr(part, name) for part in parts[1:])])
            for name in ("state", "goal", "returns", "task")
        )
    )
    main = len(rows[0][0])
    is_plain = torch.arange(len(x0), device=x0.device) >= main
    told = _told(model, windows, plain, generator)
    x_hat: Tensor | None = None
    if proposed is not None and (options.use_proposal or options.process != "ddpm"):
        x_hat = model.to_plan(model.states(windows.states[:, 0]), proposed)
        x_hat = torch.cat([x_hat.repeat_interleave(options.draws, 0), x0[main:]])

    def uniform() -> Tensor:
        return torch.rand(len(x0), generator=generator).to(x0.device)

    chances = {
        "state": options.drop_state,
        "goal": options.drop_goal,
        "returns": options.drop_returns,
    }
    drop = {name: uniform() < chance for name, chance in chances.items() if chance}
    levels = uniform()
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    if options.prediction == "velocity":
        # Albergo et al. 2023, section 6: gamma' grows at both ends, both signs cancel that
        noise[1:main:2], levels[1:main:2] = -noise[:main:2], levels[:main:2]
    loss = model.denoiser.loss(
        x0,
        x_hat,
        is_plain,
        model.main_process,
        model.plain_process,
        levels,
        noise,
        model.noise_scale,
        condition,
        drop,
        mask,
        held=model.held(),
        told=told,
    )
    weight = windows.weight.repeat_interleave(options.draws)
    of_plan = loss.pop("plan")
    losses = {"denoiser": _weighted(of_plan[:main], weight)}
    if plain is not None:
        losses["denoiser_plain"] = _weighted(of_plan[main:], plain.weight)
        weight = torch.cat([weight, plain.weight])
    return losses | {f"head_{name}": _weighted(each, weight) for name, each in loss.items()}


def _telling_loss(
    model: PlannerModel, windows: Windows, task: Tensor | None, proposed: Tensor
) -> Tensor:
    """What the head of actions says of proposals, against the data's actions.

    For the same reason as `_following_loss`: where plans start from raw proposals, the last pass
    sees something between these and data.
    """
    denoiser = model.denoiser
    assert denoiser is not None and denoiser.heads is not None
    start = model.states(windows.states[:, 0])
    value, weight = MODALITIES["actions"].read(model, windows)
    told = Told({"actions": value}, {"actions": weight}, {}, model.path_from(start))
    returns = model.normalised_returns(windows.returns[:, 0])
    condition = model.condition(start, model.goal(windows.goals), returns, task)
    x = model.to_plan(start, proposed)
    found = denoiser.telling_loss(model.plain_process, 1, x, condition, None, told)
    return _weighted(found["actions"], windows.weight)


def _state_value_loss(model: PlannerModel, valued: Valued, generator: torch.Generator) -> Tensor:
    """What the head of returns says of states with a goal and without a plan.

    Candidates with a goal are judged by where they get to, see `selection.evaluate`; windows alone
    teach that too little.
    """
    assert model.denoiser is not None
    start = model.states(valued.states)
    returns = model.normalised_returns(valued.returns)
    told = Told(
        {"returns": returns.unsqueeze(-1)},
        {"returns": torch.ones_like(returns)},
        {},
        model.path_from(start),
    )
    condition = model.condition(
        start, model.goal(valued.goals), returns, model.task_code(valued, generator)
    )
    drop = {"returns": torch.ones(len(start), dtype=torch.bool, device=start.device)}
    blank = torch.zeros(len(start), model.rows, model.plan_dim, device=start.device)
    process = model.plain_process
    found = model.denoiser.telling_loss(process, process.T, blank, condition, drop, told)
    return found["returns"].mean()


def _stream_losses(
    model: PlannerModel,
    streams: StreamDenoiser,
    windows: Windows,
    task: Tensor | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of states, actions and return, noised independently."""
    options, process = model.config.denoiser, model.plain_process
    z = model.states(windows.states)
    assert windows.actions is not None and windows.acting is not None
    returns = model.normalised_returns(windows.returns[:, 0])
    x0 = model.to_plan(z[:, 0], z[:, 1:], model.scaled_actions(windows.actions), returns)
    condition = model.condition(z[:, 0], model.goal(windows.goals), None, task)
    draws = options.draws
    x0, condition = x0.repeat_interleave(draws, 0), condition.repeat(draws)
    mask, acting, weight = (
        x.repeat_interleave(draws, 0) for x in (windows.mask, windows.acting, windows.weight)
    )
    chances = {"state": options.drop_state, "goal": options.drop_goal}
    drop = {
        name: (torch.rand(len(x0), generator=generator) < chance).to(x0.device)
        for name, chance in chances.items()
        if chance
    }
    levels = draw_levels(len(x0), process, generator).to(x0.device)
    noise = streams.noise(torch.randn(x0.shape, generator=generator).to(x0.device))
    found = streams.loss(process, x0, levels, noise, condition, drop, mask, acting)
    return {f"stream_{name}": _weighted(each, weight) for name, each in found.items()}


def _told(
    model: PlannerModel, windows: Windows, plain: Windows | None, generator: torch.Generator
) -> Told | None:
    """What the heads should tell of every row that the denoiser sees, None without heads."""
    assert model.denoiser is not None
    heads = model.denoiser.heads
    if heads is None:
        return None
    draws, share = model.config.denoiser.draws, model.config.heads.known_share
    values, weights, known = {}, {}, {}
    for name in heads.names:
        value, weight = MODALITIES[name].read(model, windows)
        value, weight = (x.repeat_interleave(draws, 0) for x in (value, weight))
        if plain is not None:
            more = MODALITIES[name].read(model, plain)
            value, weight = torch.cat([value, more[0]]), torch.cat([weight, more[1]])
        values[name], weights[name] = value, weight
        if model.plain_process.c:
            known[name] = torch.rand(len(value), generator=generator).to(value.device) < share
    start = model.states(windows.states[:, 0]).repeat_interleave(draws, 0)
    if plain is not None:
        start = torch.cat([start, model.states(plain.states[:, 0])])
    return Told(values, weights, known, model.path_from(start))


def _denoiser_rows(
    model: PlannerModel, windows: Windows, draws: int, task: Tensor | None = None
) -> tuple[Tensor, Tensor, Condition]:
    """Clean plans [B*draws, rows, D], their mask and conditions."""
    z = model.states(windows.states)
    actions = None
    if model.config.actions_in_plan and windows.actions is not None:
        actions = model.scaled_actions(windows.actions)
    x0 = model.to_plan(z[:, 0], z[:, 1:], actions)
    mask = windows.mask
    if model.absolute:
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
    returns = model.normalised_returns(windows.returns[:, 0])
    condition = model.condition(z[:, 0], model.goal(windows.goals), returns, task)
    if draws == 1:
        return x0, mask, condition
    return (
        x0.repeat_interleave(draws, 0),
        mask.repeat_interleave(draws, 0),
        condition.repeat(draws),
    )


def _noisy_value_loss(model: PlannerModel, windows: Windows, generator: torch.Generator) -> Tensor:
    """Squared error of the value of noised plans, at the levels planning comes through."""
    assert model.noisy_value is not None
    x0, _, _ = _denoiser_rows(model, windows, 1)
    process = model.plain_process
    t = torch.randint(1, process.T + 1, (len(x0),), generator=generator).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    x_t = q_sample(process, t, x0, None, noise)
    if (held := model.held()) is not None:
        x_t = torch.where(held, x0, x_t)
    start, goal = model.states(windows.states[:, 0]), model.goal(windows.goals)
    value = model.noisy_value(x_t, t / process.T, model.value_condition(start, goal))
    error = (value - model.normalised_returns(windows.returns[:, 0])).square()
    return _weighted(error, windows.weight)


def _following_loss(model: PlannerModel, windows: Windows) -> Tensor:
    """Squared error of the data's action given the first proposed state, not the true one.

    A plan is off by the model's error. Trained on true pairs alone the network takes that for
    intention, and a fast gait falls over the wrong actions that follow.
    """
    acted = windows.acted
    assert acted is not None and model.proposer is not None
    assert model.inverse_dynamics is not None
    target = model.normalised_returns(windows.returns[:, 0]) if model.use_returns else None
    start = model.states(windows.states[:, 0])
    with torch.no_grad():
        ahead = model.proposer.propose(
            start, model.goal(windows.goals), target, horizon=1, task=model.task_code(windows)
        )
    lag = acted.lag / model.config.plan.stride
    actions = model.inverse_dynamics(model.states(acted.states), ahead.states[:, 0], lag)
    error = (actions - model.scaled_actions(acted.actions)).square().mean(-1)
    return _weighted(error, acted.mask * windows.weight)


def _weighted(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean of per-window losses [B] by weight [B]: a scalar."""
    return (weight * loss).sum() / weight.sum().clamp(min=1e-6)
