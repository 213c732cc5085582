"""The measured size of the proposals' error."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.training.residual import measure_residual

Make = Callable[..., Any]
SPACES = ["displacement", "absolute"]


@pytest.fixture(params=["goals", "rewards"])
def data(
    request: pytest.FixtureRequest, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Episodes:
    return tiny_goal_episodes if request.param == "goals" else tiny_episodes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Fixed(torch.nn.Module):
    """A proposer that is off by a known amount, in normalised units."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def propose(self, context: Context) -> Proposal:
        return Proposal(self.answer, self.answer[..., 0])


@pytest.mark.parametrize("space", SPACES)
def test_the_residual_is_measured_per_step_and_dimension(
    space: str, data: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config(changes={"plan.space": space})
    model: PlannerModel = tiny_model(config, data)
    windows = WindowSampler(data, config, seed=0).sample(300, generator(), "held-out")
    z = model.states(windows.states)
    dim = z.shape[-1]
    off = torch.arange(1.0, 4 * dim + 1).view(4, dim) / 10
    model.proposer = Fixed(z[:, 1:] + off)  # type: ignore[assignment]
    assert model.residual_known == 0
    level = measure_residual(model, model.proposer, windows, 0.2)
    expected = off if space == "absolute" else off / model.plan_scale
    if space == "absolute":
        expected = torch.cat([torch.zeros(1, dim), expected])
    torch.testing.assert_close(model.residual_rms, expected, atol=1e-3, rtol=1e-3)
    assert level == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-3)
    assert model.residual_level == pytest.approx(level, rel=1e-5)
    assert model.residual_known == 1
    # later measurements move the estimate by their rate
    model.proposer = Fixed(z[:, 1:])  # type: ignore[assignment]
    assert measure_residual(model, model.proposer, windows, 0.25) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(model.residual_rms, 0.75 * expected, atol=1e-3, rtol=1e-3)
    assert model.noise_scale is not None
    assert torch.equal(model.noise_scale, model.residual_rms)


def test_a_perfect_proposer_leaves_no_residual(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config()
    model: PlannerModel = tiny_model(config, tiny_episodes)
    windows = WindowSampler(tiny_episodes, config, seed=0).sample(300, generator())
    model.proposer = Fixed(model.states(windows.states)[:, 1:])  # type: ignore[assignment]
    assert measure_residual(model, model.proposer, windows, 0.2) < 1e-5
    assert model.residual_rms.max() < 1e-5


def test_padding_and_light_windows_do_not_count_in_the_residual(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config()
    model: PlannerModel = tiny_model(config, tiny_episodes)
    windows = WindowSampler(tiny_episodes, config, seed=0).sample(300, generator())
    assert windows.mask.eq(0).any()
    weight = torch.arange(300).remainder(2).float()
    z = model.states(windows.states)
    wrong = (1 - windows.mask * weight[:, None]).unsqueeze(-1) * 100
    model.proposer = Fixed(z[:, 1:] + wrong)  # type: ignore[assignment]
    assert (
        measure_residual(model, model.proposer, dataclasses.replace(windows, weight=weight), 0.2)
        < 1e-5
    )


def test_the_residual_is_that_of_planning_without_dropout(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config("trajectory-diffuser-published")
    model: PlannerModel = tiny_model(config, tiny_episodes).train()
    windows = WindowSampler(tiny_episodes, config, seed=0).sample(50, generator())
    before = torch.get_rng_state()
    level = measure_residual(model, model.proposer, windows, 0.2)
    assert measure_residual(model, model.proposer, windows, 0.2) == level
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
