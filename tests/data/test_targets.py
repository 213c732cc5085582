"""Target returns: quantiles of the data's returns-to-go, overall and along the episode."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.config.config import Config
from diffplan.config.sections import DataConfig, PlanSpaceConfig
from diffplan.data.targets import BINS, QUANTILES, Sample, TargetTable
from diffplan.data.windows import WindowSampler

Make = Callable[..., Any]


def fitted(returns: np.ndarray, steps: np.ndarray) -> TargetTable:
    table = TargetTable()
    table.fit(Sample(torch.from_numpy(returns).float(), torch.from_numpy(steps)))
    return table


def test_quantiles_over_all_states_are_those_of_the_sample() -> None:
    returns = np.random.default_rng(0).normal(size=5000)
    table = fitted(returns, np.zeros(5000, np.int64))
    for quantile in QUANTILES:
        expected = np.quantile(returns, quantile)
        assert float(table(quantile)) == pytest.approx(expected, abs=1e-4)


def test_between_the_table_s_quantiles_it_is_linear() -> None:
    table = fitted(np.linspace(0, 1, 10_001), np.zeros(10_001, np.int64))
    for quantile in (0.03, 0.3, 0.6, 0.87, 0.93, 0.999):
        assert float(table(quantile)) == pytest.approx(quantile, abs=1e-4)


def test_the_target_follows_the_step_of_the_episode() -> None:
    # 50 episodes of 1280 steps: bins of 10; the return at step t is 1280 - t, or half of it
    steps = np.tile(np.arange(1280), 50)
    returns = (1280.0 - steps) * np.repeat(np.arange(50) % 2 + 1, 1280) / 2
    table = fitted(returns, steps)
    at = torch.tensor([5, 300, 640, 1270])
    assert table(1.0, at).tolist() == pytest.approx((1280.0 - at).tolist(), abs=6)
    assert table(0.0, at).tolist() == pytest.approx((640 - at / 2).tolist(), abs=6)
    # beyond the longest episode the last bin stands
    late = table(1.0, torch.tensor([1279, 5000]))
    assert late[0] == pytest.approx(float(late[1]), abs=6)
    assert float(table(1.0)) == 1280


def test_short_episodes_have_a_bin_for_every_step() -> None:
    steps = np.tile(np.arange(20), 30)
    table = fitted(steps.astype(float), steps)
    assert table.width == 1
    # linear between bin centres, half a step off
    assert table(0.5, torch.arange(1, 20)).tolist() == pytest.approx(
        (np.arange(1, 20) - 0.5).tolist()
    )


def test_a_bin_of_few_states_takes_over_the_one_before() -> None:
    # one of thirty episodes goes on after step 63
    steps = np.concatenate([np.tile(np.arange(64), 30), np.arange(64, BINS)])
    returns = np.where(steps < 64, 1.0, 100.0)
    table = fitted(returns, steps)
    assert table(1.0, torch.tensor([10, 63, 100])).tolist() == [1, 1, 1]
    assert float(table(1.0)) == 100


@pytest.mark.parametrize(
    "discount, limit, first, late",
    [
        (1.0, True, 40, 5),  # the horizon's end: nothing is paid after it
        (1.0, False, 40, 5),
        (0.9, True, 10, 10),  # one a step for ever
        (0.9, False, 10 * (1 - 0.9**40), 10 * (1 - 0.9**5)),
    ],
)
def test_targets_sink_to_an_end_but_not_to_a_time_limit_that_is_bridged(
    join_episodes: Make, tiny_config: Make, discount: float, limit: bool, first: float, late: float
) -> None:
    # 30 episodes of 40 steps that pay 1 a step, cut by a time limit or ended
    states = [np.random.default_rng(e).normal(size=(41, 3)) for e in range(30)]
    actions, rewards = [np.zeros((40, 2))] * 30, [np.ones(40)] * 30
    episodes = join_episodes(states, actions, rewards)
    if not limit:
        ends, none = episodes.truncations, np.zeros(1200, bool)
        episodes = dataclasses.replace(episodes, truncations=none, terminations=ends)
    config = tiny_config(changes={"data.discount": discount, "data.relabel": "hindsight"})
    table = TargetTable()
    table.fit(WindowSampler(episodes, config, seed=0).returns_by_step(0))
    assert table.width == 1
    # a bin's quantile stands at its centre, half a step on
    asked = table(0.5, torch.tensor([0.5, 35.5]))
    assert asked.tolist() == pytest.approx([first, late], rel=1e-4)


def test_of_a_mixture_the_return_that_training_shows_is_asked_for(join_episodes: Make) -> None:
    # one episode in nine pays 1 a step for 60 steps, the others fall after 20
    lengths = [60 if i % 9 == 0 else 20 for i in range(90)]
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(n + 1, 2)) for n in lengths]
    actions, rewards = [np.zeros((n, 1)) for n in lengths], [np.ones(n) for n in lengths]
    episodes = join_episodes(states, actions, rewards)
    none = np.zeros_like(episodes.truncations)
    episodes = dataclasses.replace(episodes, terminations=episodes.truncations, truncations=none)
    plan, data = PlanSpaceConfig(horizon=4, stride=2), DataConfig(discount=1.0, relabel="hindsight")
    sampler = WindowSampler(episodes, Config(plan=plan, data=data), seed=0)
    table = TargetTable()
    table.fit(sampler.returns_by_step(0), sampler.returns_drawn(0))
    early = torch.tensor([0.5, 10.5])
    low, high = (table(q, early) for q in (0.75, 1.0))
    assert low.tolist() == [20, 10] and high.tolist() == [60, 50]
    # a quantile of all states means the falls; most of what is drawn are the walks
    assert (table(None, early) > high - 15).all() and (table(None, early) < high).all()
    assert table(None, torch.tensor([40.5])).tolist() == [20]  # only these are left
    table.fit(sampler.returns_by_step(0))
    assert float(table(None)) == pytest.approx(float(sampler.returns_by_step(0).returns.mean()))
