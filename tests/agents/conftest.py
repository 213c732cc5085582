"""A small agent for tests, and observations for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffplan.agents import PlannerAgent
from diffplan.data.episodes import Episodes
from diffplan.model.planner_model import PlannerModel

Make = Callable[..., Any]


@pytest.fixture(scope="session")
def make_agent(
    tiny_config: Make, tiny_model: Make, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Callable[..., PlannerAgent]:
    """Makes an agent for the goal dict of 4 + 2 numbers, or for a Box of 3 with `rewards`."""
    models: dict[str, PlannerModel] = {}

    def make(
        name: str = "trajectory-diffuser",
        *,
        rewards: bool = False,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        engine: str = "eager",
        detailed: bool = True,
        **planning: Any,
    ) -> PlannerAgent:
        episodes = tiny_episodes if rewards else tiny_goal_episodes
        key = f"{name} {rewards} {config}"
        if key not in models:
            models[key] = tiny_model(tiny_config(name, config), episodes)
        return PlannerAgent(
            *(models[key], episodes.layout, episodes.info),
            config_name=name,
            seed=seed,
            engine=engine,
            detailed=detailed,
            **planning,
        )

    return make


@pytest.fixture(scope="session")
def observe() -> Callable[..., dict[str, np.ndarray]]:
    """Makes a batched goal observation in environment units: observe(rows, seed)."""

    def make(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        state = rng.normal(size=(rows, 4))
        return {
            "observation": state,
            "achieved_goal": state[:, :2],
            "desired_goal": rng.normal(size=(rows, 2)),
        }

    return make
