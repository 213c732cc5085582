"""Agents with several aims: of one nothing changes, of two the sum of what each asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.agents import export
from diffplan.errors import DiffplanError
from diffplan.planning import Aim

Make = Callable[..., Any]


def states(agent: Any, observation: Any) -> np.ndarray:
    found: np.ndarray = agent.predict(observation)[1].plan.states.numpy()
    return found


def test_one_aim_is_the_plan_for_it_and_a_weight_is_guidance(
    make_agent: Make, observe: Make
) -> None:
    agent, seen = make_agent(detailed=False), observe(3)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(states(agent.composed(Aim()), seen), states(agent, seen), **close)
    goal = (0.3, -0.7)
    elsewhere = {**seen, "desired_goal": np.tile(goal, (3, 1))}
    found = states(agent.composed(Aim(goal)), seen)
    np.testing.assert_allclose(found, states(agent, elsewhere), **close)
    assert np.abs(found - states(agent, seen)).max() > 1e-3
    guided = make_agent(detailed=False, guidance_weight=1.7)
    np.testing.assert_allclose(
        states(agent.composed(Aim(weight=1.7)), seen), states(guided, seen), **close
    )


def test_aims_share_a_plan_by_their_weights_on_every_engine(
    make_agent: Make, observe: Make, tmp_path: Path
) -> None:
    seen, aims = observe(2), (Aim(weight=0.5), Aim((0.3, -0.7), weight=0.5))
    both = make_agent(detailed=False).composed(*aims)
    swapped = make_agent(detailed=False).composed(*aims[::-1])
    np.testing.assert_allclose(states(both, seen), states(swapped, seen), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(states(both.to("cpu", "eager"), seen), states(both, seen))
    assert both.plan(seen).states.shape == (2, both.horizon + 1, 4)
    with pytest.raises(DiffplanError, match="constraints, aims and sensors are not part"):
        export(both, tmp_path / "export")


REFUSED: list[tuple[str, dict[str, Any], tuple[Any, ...], str]] = [
    ("trajectory-diffuser", {}, (), r"was given \[\], expected Aim"),
    ("trajectory-diffuser", {}, (Aim((1.0,)),), "a goal of 1 numbers, but goals .* have 2"),
    ("trajectory-diffuser", {}, (Aim(returns=1.0),), "are made for none"),
    ("trajectory-diffuser", {}, (Aim(weight=-1.0),), "sum to no more than 0"),
    ("trajectory-diffuser", {"denoising_steps": 0}, (Aim(),), "denoising_steps above 0"),
    ("multi-task", {}, (Aim(),), "without heads"),
]


@pytest.mark.parametrize(("name", "settings", "aims", "said"), REFUSED)
def test_what_no_plan_can_be_for_is_refused(
    make_agent: Make, name: str, settings: Any, aims: Any, said: str
) -> None:
    with pytest.raises(DiffplanError, match=said):
        make_agent(name, **settings).composed(*aims)
