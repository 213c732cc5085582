"""How well a model of several heads or streams answers its questions, on held-out windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.agents import PlannerAgent
from diffplan.data.batches import Windows
from diffplan.data.windows import WindowSampler
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.nn.embeddings import mlp
from diffplan.planning.queries import answers_of
from diffplan.scripts.report.intervals import FEW, Estimate, wilson

_RESAMPLES = 2000
_LEVELS = 6  # of noise at which the task is asked
_MLP_BATCH = 256


@dataclass(frozen=True)
class Answer:
    """One question: a figure for this model, a separate network and a simple guess.

    better: "low" or "high". Missing figures are None, with a reason in `note`.
    """

    question: str
    unit: str
    better: str
    model: Estimate | None
    separate: Estimate | None = None
    simple: Estimate | None = None
    simple_name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """Held-out windows, normalised.

    z: [N, H+1, D]. made_for: the windows' goals, returns and tasks. actions: [N, H, stride, A]
    scaled to [-1, 1]; taken: in environment units. acting: [N, H], where the data show them.
    returns: [N]. weight: [N]. task: [N] or None.
    """

    windows: Windows
    z: Tensor
    made_for: Context
    actions: Tensor
    taken: Tensor
    acting: Tensor
    returns: Tensor
    weight: Tensor
    task: Tensor | None
    x: Tensor
    """Plan tensors [N, rows, D]."""
    noise: Tensor
    """Standard normal, like x."""

    def context(self, *, goal: bool = True, target_return: bool = False) -> Context:
        """What is known at the windows' first states."""
        known = self.made_for
        return replace(
            known,
            goal=known.goal if goal else None,
            target_return=known.target_return if target_return else None,
        )


def context_in(agent: PlannerAgent, sample: Sample) -> Context:
    """What is known at the windows' first states, in the units and task codes of an agent."""
    return agent.model.context_of(agent.model.normalised_windows(sample.windows))


def draw(agent: PlannerAgent, sampler: WindowSampler, n: int, seed: int, part: str) -> Sample:
    """n windows of the training or held-out episodes."""
    model, generator = agent.model, torch.Generator().manual_seed(seed)
    windows = sampler.sample(n, generator, part)
    seen = model.normalised_windows(windows)
    context = model.context_of(seen)
    z, actions, returns = seen.states, seen.actions, seen.returns[:, 0]
    taken, acting = windows.actions, seen.acting
    assert actions is not None and taken is not None and acting is not None  # heads or streams ask
    streams = model.streams is not None
    x = model.to_plan(z[:, 0], z[:, 1:], actions if streams else None, returns if streams else None)
    noise = torch.randn(x.shape, generator=generator)
    return Sample(
        windows,
        z,
        context,
        actions,
        taken,
        acting,
        returns,
        windows.weight,
        windows.task,
        x,
        noise,
    )


# --- Figures -------------------------------------------------------------------------------------


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """Weighted mean of values [N], with a bootstrap interval over the windows that weigh anything.

    n counts these; without any all figures are NaN, and the interval is where they are few.
    """
    values, weights = values[weights > 0], weights[weights > 0]
    n = len(values)
    if not n:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(0)
    index = (rng.integers(n, size=n) for _ in range(_RESAMPLES))
    drawn = [np.average(values[i], weights=weights[i]) for i in index]
    low, high = np.quantile(drawn, (0.025, 0.975)) if n >= FEW else (np.nan, np.nan)
    return Estimate(float(np.average(values, weights=weights)), float(low), float(high), n)


def rmse(squares: np.ndarray, weights: np.ndarray) -> Estimate:
    """Root of the weighted mean of squares [N], with the interval of `weighted_mean`."""
    found = weighted_mean(squares, weights)
    mean, low, high = (float(np.sqrt(x)) for x in (found.mean, found.low, found.high))
    return Estimate(mean, low, high, found.n)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Spearman's rho of a and b [N], with a bootstrap interval over the windows."""

    def rho(x: np.ndarray, y: np.ndarray) -> float:
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return 0.0
        return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])

    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES // 10):
        # pairs are drawn together: the correlation is between them
        index = rng.integers(len(a), size=len(a))
        drawn.append(rho(a[index], b[index]))
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(a) >= FEW else (np.nan, np.nan)
    return Estimate(rho(a, b), float(low), float(high), len(a))


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    result: np.ndarray = ((ends - counts + ends - 1) / 2)[inverse]
    return result


# --- Questions -----------------------------------------------------------------------------------


def _action_errors(sample: Sample, found: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors [N] of the first action of every stride [N, H, A], and their weights [N]."""
    error = (found - sample.actions[:, :, 0]).square().mean(-1)
    # windows weigh as many strides as the data show actions of
    rows = sample.acting.sum(1)
    return ((error * sample.acting).sum(1) / rows.clamp(min=1)).numpy(), rows.numpy()


def inverse_dynamics(
    model: PlannerModel, sample: Sample, against: PlannerAgent | None, mean_action: Tensor
) -> Answer:
    """Actions between true states, those that leave a plan state."""
    found = answers_of(model).inverse_dynamics(sample.context(goal=False), sample.x, sample.noise)
    found = found[:, :, 0].clamp(-1, 1)  # as they are executed
    separate = None
    if against is not None and against.model.inverse_dynamics is not None:
        z = against.model.states(sample.windows.states)
        lag = torch.ones(len(z), z.shape[1] - 1)
        told = against.model.inverse_dynamics(
            z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1), lag.flatten()
        ).clamp(-1, 1)
        separate = rmse(*_action_errors(sample, told.unflatten(0, lag.shape)))
    simple = mean_action.expand_as(sample.actions[:, :, 0])
    return Answer(
        "inverse dynamics",
        "RMSE of actions in [-1, 1]",
        "low",
        rmse(*_action_errors(sample, found)),
        separate,
        rmse(*_action_errors(sample, simple)),
        "mean action",
    )


def policy(model: PlannerModel, sample: Sample, mean_action: Tensor) -> Answer:
    """The action to take, where the data went for the goal or got the return that is asked for."""
    # asked for what the window itself went on to reach
    context = sample.context(target_return=model.use_returns)
    found = answers_of(model).policy(context, sample.noise).clamp(-1, 1)
    weights = (sample.weight * sample.acting[:, 0]).numpy()

    def of(action: Tensor) -> Estimate:
        return rmse((action - sample.actions[:, 0, 0]).square().mean(-1).numpy(), weights)

    return Answer(
        "policy",
        "RMSE of actions in [-1, 1]",
        "low",
        of(found),
        simple=of(mean_action.expand_as(found)),
        simple_name="mean action",
    )


def forward_model(
    model: PlannerModel, sample: Sample, steps: int, learned: Callable[[Sample], Tensor]
) -> Answer:
    """States that true actions lead to, in standard deviations of the data."""
    weights = sample.acting.cumprod(1)  # later states follow from earlier actions

    def of(states: Tensor) -> Estimate:
        error = (states - sample.z[:, 1:]).square().mean(-1)
        rows = weights.sum(1)
        return rmse(((error * weights).sum(1) / rows.clamp(min=1)).numpy(), rows.numpy())

    still = of(sample.z[:, :1].expand_as(sample.z[:, 1:]))
    answer = Answer(
        "forward model",
        "RMSE in standard deviations",
        "low",
        None,
        of(learned(sample)),
        still,
        "nothing moves",
    )
    if model.streams is None and not (model.plain_process.c and model.config.has_head("actions")):
        return replace(answer, note="needs streams, or an aggregation of actions")
    context = sample.context(goal=False)
    found = answers_of(model).forward_model(context, sample.actions, sample.noise, steps)
    ahead = model.from_plan(sample.z[:, 0], found)[:, 1:]
    return replace(answer, model=of(ahead))


def evaluation(model: PlannerModel, sample: Sample, against: PlannerAgent | None) -> list[Answer]:
    """Returns-to-go of plans, and of states where the head judges these."""
    true = sample.returns.numpy()
    separate, simple = None, None
    value = None if against is None else against.model.value
    if against is not None and value is not None and not value.uses_action:
        given = context_in(against, sample)
        told = value(given.state, given.goal, task=given.task)
        separate = rank_correlation(told.numpy(), true)
    goals = sample.windows.goals
    if goals is not None:
        here = sample.windows.states[:, 0][:, list(model.spec.goal_columns)]
        far = (here - goals).norm(dim=-1)
        simple = rank_correlation(-far.numpy(), true)

    def answer(question: str, found: Tensor) -> Answer:
        told = rank_correlation(found.numpy(), true)
        name = "straight distance" if simple else ""
        unit = "rank correlation with the return-to-go"
        return Answer(question, unit, "high", told, separate, simple, name)

    answers = []
    if model.config.tells_returns:
        answers.append(
            answer("evaluation of plans", answers_of(model).evaluation(sample.context(), sample.x))
        )
    if model.tells_of_states:
        goal, code = sample.made_for.given("goal"), sample.made_for.task
        codes = None if code is None else code[:, None]
        states = answers_of(model).state_values(sample.z[:, :1], goal[:, None], codes)
        answers.append(answer("evaluation of states", states[:, 0]))
    return answers


def task(model: PlannerModel, sample: Sample) -> dict[str, Any]:
    """Accuracy of the told task by noise level, and with the label inside the forward process.

    The model is not told the task otherwise. Where the label enters the process it may be read off
    at little noise, which says nothing; at much noise it must not be.
    """
    assert sample.task is not None
    process = model.plain_process
    # told of the task the model would only have to repeat it
    unknown = None if model.tasks is None else model.tasks.unknown.detach()
    code = None if unknown is None else unknown.expand(len(sample.z), -1)
    context = replace(sample.context(goal=False), task=code)
    levels = sorted({round(x) for x in np.linspace(1, process.T, _LEVELS)})
    true = sample.task.numpy()

    def accuracy(level: int, label: Tensor | None) -> dict[str, float]:
        told = answers_of(model).task(context, sample.x, level, sample.noise, label)
        right = int((told.argmax(-1).numpy() == true).sum())
        found = wilson(right, len(true))
        return {"mean": found.mean, "low": found.low, "high": found.high}

    result: dict[str, Any] = {
        "levels": levels,
        "sigma": [process.sigma[level] for level in levels],
        "accuracy": [accuracy(level, None) for level in levels],
        "chance": 1 / model.spec.tasks,
        "n": len(true),
    }
    if process.c:
        result["label_inside"] = [accuracy(level, sample.task) for level in levels]
    return result


# --- A learned forward model ---------------------------------------------------------------------


def learned_forward_model(
    agent: PlannerAgent,
    sampler: WindowSampler,
    updates: int,
    seed: int,
    progress: Callable[[], object],
) -> Callable[[Sample], Tensor]:
    """An MLP from first state and actions to the plan's states, trained on the training windows."""
    model, plan = agent.model, agent.model.config.plan
    generator = torch.Generator().manual_seed(seed)
    state, action = model.spec.state_dim, model.spec.action_dim
    heads = model.config.heads
    # weights from the seed, and the random numbers of the caller as they were
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = mlp(
            state + plan.horizon * plan.stride * action,
            [heads.width] * 2,
            plan.horizon * state,
        )
    # steps of every state in their own size, so that the loss weighs them alike
    scale = draw(agent, sampler, 2048, seed, "train").z.diff(dim=1).std((0, 1)).clamp(min=1e-6)

    def states(z: Tensor, actions: Tensor) -> Tensor:
        moved = network(torch.cat([z, actions.flatten(1)], -1)).unflatten(1, (plan.horizon, state))
        return z[:, None] + scale * moved

    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(updates):
        windows = sampler.sample(_MLP_BATCH, generator)
        assert windows.actions is not None and windows.acting is not None
        # a state counts as long as every action before it is known
        z, weights = model.states(windows.states), windows.acting.cumprod(1)
        error = (states(z[:, 0], model.scaled_actions(windows.actions)) - z[:, 1:]) / scale
        optimiser.zero_grad()
        loss = (error.square().mean(-1) * weights).sum() / weights.sum().clamp(min=1)
        loss.backward()
        optimiser.step()
        progress()

    @torch.no_grad()
    def answer(sample: Sample) -> Tensor:
        return states(sample.z[:, 0], sample.actions)

    return answer
