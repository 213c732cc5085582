"""With a goal, a plan that saves more steps than it takes is worth less, not more."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from diffplan.config.config import Config
from diffplan.config.sections import DataConfig, HeadsConfig, PlanSpaceConfig
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.spec import ModelSpec
from diffplan.planning.queries import HeadAnswers
from diffplan.planning.selection import evaluate

DISCOUNT, HORIZON, STRIDE = 0.99, 8, 2


@pytest.fixture(params=["separate", "shared"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PlannerModel:
    """One coordinate: `100 * |s - g|` steps to go, in plain units."""
    plan, heads = (
        PlanSpaceConfig(horizon=HORIZON, stride=STRIDE),
        HeadsConfig(request.param, value="returns"),
    )
    model = PlannerModel(ModelSpec(1, 1, (0,)), Config(plan=plan, heads=heads)).eval()

    def forward(
        state: Tensor, goal: Tensor, action: Tensor | None = None, task: Tensor | None = None
    ) -> Tensor:
        return DISCOUNT ** (100 * (state - goal).abs().squeeze(-1))

    def told(answers: HeadAnswers, states: Tensor, goals: Tensor, task: None) -> Tensor:
        return forward(states, goals)

    if model.value is None:
        monkeypatch.setattr(HeadAnswers, "state_values", told)
    else:
        monkeypatch.setattr(model.value, "forward", forward)
    return model


def steps_left(model: PlannerModel, plans: list[list[float]]) -> list[float]:
    candidates = torch.tensor(plans).unsqueeze(-1)
    context = Context(candidates[:, 0], torch.ones(len(plans), 1), None)
    with torch.no_grad():
        values = evaluate(model, context, candidates, candidates, {})
    return [math.log(float(value)) / math.log(DISCOUNT) for value in values]


def test_a_plan_within_its_time_is_worth_its_last_state(model: PlannerModel) -> None:
    step = STRIDE / 100  # as fast as time passes
    brisk = [step * k for k in range(HORIZON + 1)]
    slow = [0.5 * step * k for k in range(HORIZON + 1)]
    back = [0.5 - step * k for k in range(HORIZON + 1)]
    expected = [100 - HORIZON * STRIDE, 100 - HORIZON * STRIDE / 2, 50 + HORIZON * STRIDE]
    assert steps_left(model, [brisk, slow, back]) == pytest.approx(expected, abs=0.05)


def test_a_jump_costs_twice_what_it_gains(model: PlannerModel) -> None:
    jump = [0.0] * 4 + [0.5] * (HORIZON - 3)  # 50 steps saved in 4 strides
    (left,) = steps_left(model, [jump])
    assert left == pytest.approx(50 + 2 * (50 - 4 * STRIDE), abs=0.05)
    assert left > steps_left(model, [[0.0] * (HORIZON + 1)])[0]


def test_a_jump_in_a_last_part_that_is_shorter_costs_as_much(model: PlannerModel) -> None:
    horizon = 6  # looked at after four strides and after two more
    plan = PlanSpaceConfig(horizon=horizon, stride=STRIDE)
    model.config = dataclasses.replace(model.config, plan=plan)
    early, late = [0.0] + [0.5] * horizon, [0.0] * horizon + [0.5]
    step = STRIDE / 100
    brisk = [step * k for k in range(horizon + 1)]
    expected = [50 + 2 * (50 - 4 * STRIDE), 50 + 2 * (50 - 2 * STRIDE), 100 - horizon * STRIDE]
    assert steps_left(model, [early, late, brisk]) == pytest.approx(expected, abs=0.05)


def test_undiscounted_a_plan_is_worth_its_last_state(model: PlannerModel) -> None:
    model.config = dataclasses.replace(
        model.config, data=DataConfig(discount=1.0, relabel="hindsight")
    )
    candidates = torch.tensor([[0.0] * HORIZON + [0.5], [0.5] * (HORIZON + 1)]).unsqueeze(-1)
    context = Context(candidates[:, 0], torch.ones(2, 1), None)
    with torch.no_grad():
        values = evaluate(model, context, candidates, candidates, {})
    torch.testing.assert_close(values, torch.full((2,), DISCOUNT**50))
