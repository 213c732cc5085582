"""A Ray actor holds an agent: the same actions as here, its state a value that travels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray")


@pytest.mark.slow
def test_an_actor_plans_as_the_agent_here_does(
    make_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    agent = make_agent(rewards=True)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:

        @ray.remote
        class Planner:
            def __init__(self, agent: Any) -> None:
                self.agent = agent

            def predict(self, observation: Any, state: Any = None) -> Any:
                return self.agent.predict(observation, state)

        actor = Planner.remote(agent)
        there = here = None
        for seed in range(6):
            observation = np.random.default_rng(seed).normal(size=(4, 3))
            action, there = ray.get(actor.predict.remote(observation, there))
            expected, here = agent.predict(observation, here)
            assert np.array_equal(action, expected)
    finally:
        ray.shutdown()
