"""What is not measured follows from what is, and what is least known is asked for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import Chain, chain_of
from diffplan.planning.sensing import most_telling, posterior

Make = Callable[..., Any]


def gaussian(covariance: list[list[float]], rows: int = 1) -> torch.Tensor:
    """Particles [rows, 64, D] whose covariance is exactly this."""
    wanted = torch.tensor(covariance)
    white = torch.randn(64, len(wanted), generator=torch.Generator().manual_seed(0))
    white = white - white.mean(0)
    found = torch.linalg.cholesky(white.T @ white / 63)
    drawn = white @ torch.linalg.inv(found).T @ torch.linalg.cholesky(wanted).T
    return drawn.expand(rows, -1, -1)


def marks(covariance: list[list[float]], count: int, sensors: Any = None) -> Any:
    each = tuple((c,) for c in range(len(covariance))) if sensors is None else sensors
    found = most_telling(gaussian(covariance), each, count)
    return found[0].nonzero()[:, 0].tolist()


def test_the_widest_is_asked_for_and_what_follows_from_it_is_not() -> None:
    # 0 and 1 show nearly the same
    covariance = [[4.0, 3.9, 0.0], [3.9, 3.9, 0.0], [0.0, 0.0, 1.0]]
    assert marks(covariance, 1) == [0]
    assert marks(covariance, 2) == [0, 2]
    assert marks(covariance, 3) == [0, 1, 2]


def test_a_sensor_of_several_columns_tells_what_they_tell_together() -> None:
    covariance = [[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.5]]
    assert marks(covariance, 1, sensors=((0,), (1, 2))) == [1]
    assert marks(covariance, 1, sensors=((0,), (1,))) == [0]


@pytest.fixture(scope="module")
def planned(tiny_model: Make, tiny_config: Make, tiny_goal_episodes: Any) -> tuple[Any, ...]:
    model: PlannerModel = tiny_model(tiny_config("trajectory-diffuser", {}), tiny_goal_episodes)
    settings = model.config.planning
    chain = chain_of(model, settings)
    assert isinstance(chain, Chain)
    return model, settings, chain


def test_particles_show_what_was_measured_and_start_where_they_may(planned: Any) -> None:
    model, settings, chain = planned
    horizon, dim = model.config.plan.horizon, model.spec.state_dim
    draw = torch.Generator().manual_seed(1)
    followed = torch.randn(2, horizon + 1, dim, generator=draw)
    starts = followed[:, :1] + 0.1 * torch.randn(2, 5, dim, generator=draw)
    noise = torch.randn(2, 5, model.rows, model.plan_dim, generator=draw)
    measured = torch.full_like(followed, torch.nan)
    measured[:, 2, 1] = torch.tensor([0.7, -0.4])
    goal, state = torch.zeros(2, 2), followed[:, 0]
    context = model.normalised_context(Context(state, goal))
    with torch.no_grad():
        found = posterior(*(model, context, followed, starts, measured, noise), settings, chain)
        torch.testing.assert_close(found[:, :, 0], starts)
        torch.testing.assert_close(found[:, :, 2, 1], measured[:, 2:3, 1].expand(2, 5))
        assert (found[:, :, 2, 0].std(1) > 1e-3).all()
        # each row by itself
        alone = posterior(
            *(model, context.rows(slice(1, 2)), followed[1:], starts[1:], measured[1:]),
            *(noise[1:], settings, chain),
        )
    torch.testing.assert_close(alone, found[1:], rtol=1e-4, atol=1e-5)
