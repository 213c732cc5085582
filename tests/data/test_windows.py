"""Windows: where they end, what they carry, and what they never mix.

Most datasets here encode each state's own place, so that a window can be read back.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffplan.config import Config
from diffplan.data.episodes import Episodes, ObservationLayout
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError

LENGTHS = [5, 12, 7, 3, 20, 9]
MAZE = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))

Make = Callable[..., Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coded(join: Make, extra: list[int], rewards: list[np.ndarray] | None = None) -> Episodes:
    """State t of episode e is (e, t), its action (e / 100, t / 100)."""
    pairs = list(enumerate(zip(LENGTHS, extra, strict=True)))
    states = [np.array([(e, t) for t in range(n + more)]) for e, (n, more) in pairs]
    actions = [np.array([(e, t) for t in range(n)]) / 100 for e, (n, _) in pairs]
    return join(states, actions, rewards)


def walking(join: Make, lengths: list[int]) -> Episodes:
    """Episode e walks along x at y = 10 e, one unit a step, with velocity (1, 0)."""
    states = [
        np.array([(t, 10 * e, 1, 0) for t in range(n + 1)], float) for e, n in enumerate(lengths)
    ]
    return join(states, [np.zeros((n, 2)) for n in lengths], layout=MAZE)


def steps_config(tiny_config: Make, **changes: Any) -> Config:
    options = {key.replace("__", "."): value for key, value in changes.items()}
    return tiny_config(changes={"plan.horizon": 3, "plan.stride": 2, **options})


@pytest.mark.parametrize("extra", [[0] * 6, [1] * 6, [0, 1, 0, 1, 1, 0]])
def test_windows_end_with_their_episode(
    join_episodes: Make, tiny_config: Make, extra: list[int]
) -> None:
    sampler = WindowSampler(coded(join_episodes, extra), steps_config(tiny_config), seed=0)
    seen: set[tuple[int, int]] = set()
    for part in ("train", "held-out"):
        windows = sampler.sample(3000, generator(), part)
        assert windows.states.shape == (3000, 4, 2)
        assert windows.goals is None
        assert windows.weight.eq(1).all()
        for row, mask in zip(windows.states.long().tolist(), windows.mask.tolist(), strict=True):
            episode, first = row[0]
            last = LENGTHS[episode] + extra[episode] - 1
            assert row == [[episode, min(first + 2 * k, last)] for k in range(4)]
            assert mask == [float(first + 2 * k <= last) for k in (1, 2, 3)]
            seen.add((episode, first))
    # every state that has a next plan state starts a window, and no other one
    assert seen == {
        (e, t)
        for e, (n, more) in enumerate(zip(LENGTHS, extra, strict=True))
        for t in range(n + more - 2)
    }


@pytest.mark.parametrize("extra", [[0] * 6, [1] * 6, [0, 1, 0, 1, 1, 0]])
def test_actions_belong_to_their_states(
    join_episodes: Make, tiny_config: Make, extra: list[int]
) -> None:
    config = steps_config(tiny_config, plan__stride=3, heads__value_input="state-action")
    episodes = coded(join_episodes, extra)
    sampler = WindowSampler(episodes, config, seed=0)
    pairs = sampler.transitions(2000, generator())
    torch.testing.assert_close(pairs.actions, pairs.states / 100)
    assert torch.equal(pairs.ahead[:, 0], pairs.states[:, 0])
    assert torch.equal(pairs.ahead[:, 1] - pairs.states[:, 1], pairs.lag)
    assert pairs.lag.unique().tolist() == [1.0, 2.0, 3.0]
    valued = sampler.valued(2000, generator())
    torch.testing.assert_close(valued.actions, valued.states / 100)
    # a value of states alone also learns from the last ones, which have no action of their own
    config = steps_config(tiny_config, plan__stride=3)
    valued = WindowSampler(episodes, config, seed=0).valued(2000, generator())
    taken = torch.tensor(LENGTHS)[valued.states[:, 0].long()] - 1
    assert (valued.states[:, 1] > taken).any() == any(extra)
    expected = torch.stack([valued.states[:, 0], valued.states[:, 1].minimum(taken)], 1)
    torch.testing.assert_close(valued.actions, expected / 100)


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
def test_returns_to_go_match_a_hand_computation(
    join_episodes: Make, tiny_config: Make, discount: float, end: str
) -> None:
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=n) for n in LENGTHS]
    episodes = coded(join_episodes, [1] * 6, rewards)
    if end != "truncated":
        cut = episodes.truncations if end == "both" else episodes.terminations
        terminations = episodes.truncations
        episodes = dataclasses.replace(episodes, terminations=terminations, truncations=cut)
    options = {"data__discount": discount, "data__relabel": "hindsight"}
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)

    def return_to_go(episode: int, t: int) -> float:
        ours = rewards[episode]
        total = sum(discount**i * r for i, r in enumerate(ours[t:]))
        if discount < 1 and end == "truncated":  # beyond a time limit more of the same
            total += discount ** (len(ours) - t) * ours.mean() / (1 - discount)
        return float(total)

    windows = sampler.sample(500, generator())
    for states, returns in zip(windows.states.tolist(), windows.returns.tolist(), strict=True):
        episode, first = int(states[0][0]), int(states[0][1])
        for k, value in enumerate(returns):
            t = first + 2 * k
            expected = return_to_go(episode, t) if t <= len(rewards[episode]) else 0.0
            assert value == pytest.approx(expected, abs=1e-4)
    valued = sampler.valued(400, generator())
    last = 0
    for (episode, t), value in zip(valued.states.long().tolist(), valued.returns, strict=True):
        assert float(value) == pytest.approx(return_to_go(episode, t), abs=1e-4)
        last += t == len(rewards[episode])
    assert last > 0  # also states in which no action was taken


def test_the_target_return_is_a_quantile_of_the_training_data(
    join_episodes: Make, tiny_config: Make
) -> None:
    rewards = [np.full(n, float(e)) for e, n in enumerate(LENGTHS)]
    episodes = coded(join_episodes, [1] * 6, rewards)
    config = steps_config(tiny_config, data__target_quantile=1.0)
    sampler = WindowSampler(episodes, config, seed=0)
    train = sampler.sample(4000, generator())
    assert sampler.target_return(0) == pytest.approx(float(train.returns.max()), rel=1e-6)
    lowest = steps_config(tiny_config, data__target_quantile=0.0)
    low = WindowSampler(episodes, lowest, seed=0)
    assert low.target_return(0) == pytest.approx(float(train.returns[:, 0].min()), rel=1e-6)


def test_hindsight_goals_lie_ahead_and_the_plan_rests_there(
    join_episodes: Make, tiny_config: Make
) -> None:
    lengths = [9, 14, 6, 30]
    options = {"data__relabel": "hindsight", "data__discount": 0.9, "data__target_quantile": 1.0}
    episodes = walking(join_episodes, lengths)
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    windows = sampler.sample(3000, generator())
    assert windows.goals is not None
    assert windows.mask.eq(1).all()  # after the goal the window goes on resting
    assert windows.weight.eq(1).all()
    passed = set()
    for row in range(3000):
        states, (goal, lane) = windows.states[row].tolist(), windows.goals[row].tolist()
        first = states[0][0]
        assert lane == states[0][1]
        assert first < goal <= lengths[int(lane / 10)]
        expected = [[first, lane, 1, 0]]
        for k in (1, 2, 3):
            t = first + 2 * k
            expected.append([t, lane, 1, 0] if t < goal else [goal, lane, 0, 0])
        assert states == expected
        left = [max(goal - first - 2 * k, 0) for k in range(4)]
        assert windows.returns[row].tolist() == pytest.approx([0.9**n for n in left], rel=1e-5)
        passed.add(goal - first)
    assert passed == set(range(1, 31))
    assert sampler.target_return(0) == 1.0


def test_undiscounted_goals_cost_a_step_each(join_episodes: Make, tiny_config: Make) -> None:
    options = {"data__relabel": "hindsight", "data__discount": 1.0}
    episodes = walking(join_episodes, [9, 30])
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    windows = sampler.sample(100, generator())
    assert windows.goals is not None
    left = windows.goals[:, 0] - windows.states[:, 0, 0]
    assert torch.equal(windows.returns[:, 0], -left)
    assert sampler.valued(100, generator()).returns.max() <= 0
    assert sampler.target_return(0) > -30


def test_valued_goals_include_the_state_itself(join_episodes: Make, tiny_config: Make) -> None:
    options = {"data__relabel": "hindsight", "data__discount": 0.9}
    sampler = WindowSampler(
        walking(join_episodes, [9, 14]), steps_config(tiny_config, **options), seed=0
    )
    valued = sampler.valued(1000, generator())
    assert valued.goals is not None
    steps = valued.goals[:, 0] - valued.states[:, 0]
    assert torch.equal(valued.goals[:, 1], valued.states[:, 1])
    assert 0 in steps and steps.min() >= 0
    torch.testing.assert_close(valued.returns, 0.9**steps)


# --- Stitching -----------------------------------------------------------------------------------


def maze_walks(join: Make, *paths: list[tuple[float, float]], repeat: int = 3) -> Episodes:
    """Episodes that walk along corner points, 0.1 units a step, each `repeat` times."""
    states = []
    for corners in paths * repeat:
        places = [np.array(corners[0], float)]
        for corner in corners[1:]:
            way = np.array(corner) - places[-1]
            steps = round(float(np.linalg.norm(way)) / 0.1)
            places += [places[-1] + way * (i + 1) / steps for i in range(steps)]
        velocity = np.diff(np.array(places), axis=0, append=[places[-1]])
        states.append(np.concatenate([places, velocity], axis=1))
    return join(states, [np.zeros((len(s) - 1, 2)) for s in states], layout=MAZE)


def test_stitched_goals_come_from_other_episodes_with_the_right_steps(
    join_episodes: Make, tiny_config: Make
) -> None:
    # two walks that cross at (4, 0): from the first's start to the second's end only by stitching
    episodes = maze_walks(join_episodes, [(0, 0), (4, 0), (4, -4)], [(4, 4), (4, 0), (8, 0)])
    options = {
        "data__hindsight_share": 0.0,
        "data__advantage_temperature": float("inf"),
        "data__discount": 0.98,
        "data__landmarks": 120,
    }
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    windows = sampler.sample(20_000, generator())
    assert windows.goals is not None
    start, goal = windows.states[:, 0, :2], windows.goals
    first_walk = (start[:, 1].abs() < 1e-3) & (start[:, 0] < 3)
    crossing = first_walk & (goal[:, 0] > 5)
    assert crossing.sum() > 100
    steps = (goal[crossing, 0] - start[crossing, 0]) / 0.1
    estimate = windows.returns[crossing, 0].log() / np.log(0.98)
    assert ((estimate - steps).abs() / steps).max() < 0.2
    # the return-to-go rises as the window comes nearer
    assert (windows.returns[crossing].diff(dim=1) > 0).all()
    back = first_walk & (goal[:, 1] > 1)  # nobody ever went up
    assert back.sum() > 100
    assert windows.returns[back].max() < 1e-6


def test_other_goals_leave_the_window_as_it_was(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [30, 40, 35])
    options = {"data__hindsight_share": 0.0, "data__goal_candidates": 2}
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    windows = sampler.sample(500, generator())
    first = windows.states[:, :1, 0]
    last = torch.tensor([30.0, 40.0, 35.0])[(windows.states[:, :1, 1] / 10).long()]
    expected = torch.minimum(first + 2 * torch.arange(4), last)
    assert torch.equal(windows.states[..., 0], expected)
    assert windows.states[..., 2].eq(1).all()
    assert torch.equal(windows.mask, (first + 2 * torch.arange(1, 4) <= last).float())


def test_detours_weigh_less_than_the_direct_way(join_episodes: Make, tiny_config: Make) -> None:
    detour = [(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)]
    direct, back = [(0.0, 0.0), (4.0, 0.0)], [(0.0, 4.0), (0.0, 0.0)]
    episodes = maze_walks(join_episodes, detour, direct, back)
    options = {
        "plan__stride": 4,
        "data__hindsight_share": 1.0,
        "data__landmarks": 120,
        "training__held_out": 0.2,
    }
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    windows = sampler.sample(20_000, generator())
    assert windows.goals is not None
    assert windows.weight.min() >= 0
    assert windows.weight.max() <= 1
    x, y = windows.states[:, 0, :2].unbind(1)
    end = (windows.goals - torch.tensor([4.0, 0.0])).norm(dim=1) < 0.1
    away = end & (x < 0.01) & (y > 0.3) & (y < 2)  # going up, on the detour
    along = end & (y < 0.01) & (x > 0.1) & (x < 2)
    assert away.sum() > 10 and along.sum() > 10
    assert windows.weight[along].mean() > 0.7
    assert windows.weight[away].mean() < 0.2 * windows.weight[along].mean()
    # without weighting they count the same
    options["data__advantage_temperature"] = float("inf")
    flat = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    assert flat.sample(500, generator()).weight.eq(1).all()


def test_goals_out_of_reach_teach_nothing(join_episodes: Make, tiny_config: Make) -> None:
    ways = [[(0.0, y), (4.0, y), (0.0, y)] for y in (0.0, 100.0)]
    episodes = maze_walks(join_episodes, *ways)
    options = {"data__hindsight_share": 0.0, "data__goal_candidates": 1}
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    assert abs(sampler.offset) < 20  # its zero is that of goals within reach
    windows = sampler.sample(2000, generator())
    assert windows.goals is not None
    apart = (windows.states[:, 0, 1] - windows.goals[:, 1]).abs() > 50
    assert apart.sum() > 500
    assert windows.weight[apart].eq(0).all()
    assert windows.weight[~apart].mean() > 0.1
    several = steps_config(tiny_config, data__hindsight_share=0.0, data__goal_candidates=8)
    picked = WindowSampler(episodes, several, seed=0).sample(2000, generator())
    assert picked.goals is not None
    apart = (picked.states[:, 0, 1] - picked.goals[:, 1]).abs() > 50
    assert apart.float().mean() < 0.03  # only where all eight candidates are


def test_the_share_of_hindsight_goals(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [30] * 40)
    config = steps_config(tiny_config, data__hindsight_share=0.3, data__goal_candidates=1)
    windows = WindowSampler(episodes, config, seed=0).sample(4000, generator())
    assert windows.goals is not None
    own = (windows.goals[:, 1] == windows.states[:, 0, 1]).float().mean()
    assert float(own) == pytest.approx(0.3 + 0.7 / 40, abs=0.03)


# --- Splits, seeds, mistakes ---------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.34, 2), (0.99, 5)])
def test_held_out_episodes_never_appear_in_training(
    join_episodes: Make, tiny_config: Make, share: float, expected: int
) -> None:
    config = steps_config(tiny_config, training__held_out=share)
    sampler = WindowSampler(coded(join_episodes, [1] * 6), config, seed=0)

    def episodes_in(*tensors: Tensor) -> set[int]:
        return {int(e) for tensor in tensors for e in tensor.reshape(-1, 2)[:, 0].unique()}

    held = episodes_in(sampler.sample(3000, generator(), "held-out").states)
    assert len(held) == expected
    pairs = sampler.transitions(3000, generator())
    train = episodes_in(
        sampler.sample(3000, generator()).states,
        pairs.states,
        pairs.ahead,
        sampler.valued(3000, generator()).states,
    )
    assert train == set(range(6)) - held


def test_the_split_depends_on_the_seed_alone(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [9] * 30)

    def held(seed: int) -> list[float]:
        config = steps_config(tiny_config, data__relabel="hindsight", training__held_out=0.3)
        sampler = WindowSampler(episodes, config, seed=seed)
        return sampler.sample(500, generator(), "held-out").states[:, 0, 1].unique().tolist()

    assert held(0) == held(0)
    assert held(0) != held(1)


def test_a_single_episode_serves_both_parts(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [20])
    sampler = WindowSampler(episodes, steps_config(tiny_config), seed=0)
    assert len(sampler.sample(5, generator(), "train").states) == 5
    assert len(sampler.sample(5, generator(), "held-out").states) == 5


@pytest.mark.parametrize("kind", ["sample", "transitions", "valued"])
def test_draws_depend_on_the_generator_alone(
    tiny_goal_episodes: Episodes, tiny_config: Make, kind: str
) -> None:
    def draw(seed: int, other: int) -> tuple[Tensor, ...]:
        torch.manual_seed(other)
        np.random.seed(other)  # noqa: NPY002
        sampler = WindowSampler(tiny_goal_episodes, tiny_config(), seed=3)
        return dataclasses.astuple(getattr(sampler, kind)(64, generator(seed)))

    one, same, other = draw(0, 1), draw(0, 2), draw(1, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("extra", [0, 1])
def test_a_plan_longer_than_every_episode_is_an_error(
    join_episodes: Make, tiny_config: Make, extra: int
) -> None:
    episodes = coded(join_episodes, [extra] * 6)  # the longest has 20 steps
    fits = tiny_config(changes={"plan.horizon": 19 + extra, "plan.stride": 1})
    assert WindowSampler(episodes, fits, seed=0).sample(4, generator()).mask.shape[0] == 4
    long = tiny_config(changes={"plan.horizon": 10 + extra, "plan.stride": 2})
    with pytest.raises(DiffplanError) as error:
        WindowSampler(episodes, long, seed=0)
    message = str(error.value)
    for part in (f"horizon {10 + extra} x stride 2", "tiny", str(19 + extra), "--plan.horizon"):
        assert part in message
    assert "\n" not in message


def test_goals_that_never_move_are_an_error(join_episodes: Make, tiny_config: Make) -> None:
    still = join_episodes([np.ones((20, 4))] * 3, [np.zeros((19, 2))] * 3, layout=MAZE)
    with pytest.raises(DiffplanError, match="never move"):
        WindowSampler(still, steps_config(tiny_config), seed=0)
    config = steps_config(tiny_config, data__relabel="hindsight")
    assert len(WindowSampler(still, config, seed=0).sample(4, generator()).states) == 4
