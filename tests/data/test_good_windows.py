"""Without a goal, windows and actions of good returns are drawn rather than those of bad ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.data.drawing import Drawing
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler

Make = Callable[..., Any]
GOOD = 1, 4, 9  # episodes that earn 2 a step, the others earn 1


def episodes(join: Make) -> Episodes:
    """Twelve equally long episodes: state t of episode e is (e, t), its action (e / 100, 0)."""
    states = [np.array([(e, t) for t in range(41)], float) for e in range(12)]
    actions = [np.array([(e, 0) for _ in range(40)]) / 100 for e in range(12)]
    return join(states, actions, [np.full(40, 2.0 if e in GOOD else 1.0) for e in range(12)])


def sampler(
    join: Make, tiny_config: Make, *, drawing: Drawing | None = None, **changes: Any
) -> WindowSampler:
    options = {f"data.{key}": value for key, value in changes.items()}
    plan = {"plan.horizon": 3, "plan.stride": 2, "data.discount": 0.99}
    config = tiny_config(changes={**plan, **options})
    return WindowSampler(episodes(join), config, seed=0, drawing=drawing)


def shares(made: WindowSampler, draws: int = 4000) -> tuple[float, float, float]:
    """Shares of the good episodes among windows, actions and valued states."""
    generator = torch.Generator().manual_seed(1)
    first = made.sample(draws, generator).states[:, 0, 0]
    acted = made.transitions(draws, generator).actions[:, 0] * 100
    valued = made.valued(draws, generator).states[:, 0]
    good = torch.tensor(GOOD, dtype=torch.float32)
    return tuple(float(torch.isin(e.round(), good).float().mean()) for e in (first, acted, valued))


def test_good_episodes_are_drawn_more_often(join_episodes: Make, tiny_config: Make) -> None:
    plain = shares(sampler(join_episodes, tiny_config))
    weighed = shares(sampler(join_episodes, tiny_config, best_of_windows=16))
    there = plain[2]  # of the training episodes
    assert 0.1 < there < 0.4
    assert plain == pytest.approx([there] * 3, abs=0.04)
    # none of 16 draws is good with probability (1 - there)^16
    assert weighed[:2] == pytest.approx([1 - (1 - there) ** 16] * 2, abs=0.05)
    assert weighed[2] == pytest.approx(there, abs=0.04)  # the value must know the bad ones too


def test_a_high_temperature_draws_evenly(join_episodes: Make, tiny_config: Make) -> None:
    made = sampler(
        join_episodes, tiny_config, best_of_windows=16, drawing=Drawing(return_temperature=1e6)
    )
    window, action, valued = shares(made)
    assert (window, action) == pytest.approx((valued, valued), abs=0.04)


def test_every_step_of_an_episode_is_still_drawn(join_episodes: Make, tiny_config: Make) -> None:
    made = sampler(join_episodes, tiny_config, best_of_windows=16)
    steps = made.sample(4000, torch.Generator().manual_seed(2)).states[:, 0, 1]
    counts = torch.bincount(steps.long(), minlength=39)
    assert len(counts) == 39 and counts.min() > 4000 / 39 / 2


def test_held_out_windows_are_drawn_evenly(join_episodes: Make, tiny_config: Make) -> None:
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    windows = [
        sampler(join_episodes, tiny_config, best_of_windows=n).sample(50, g, "held-out").states
        for n, g in zip((1, 16), generators, strict=True)
    ]
    assert torch.equal(*windows)
