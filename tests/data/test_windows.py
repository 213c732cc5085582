"""Windows: where they end, what they carry, and what they never mix.

Most datasets here encode each state's own place, so that a window can be read back.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffplan.config.config import Config
from diffplan.data.drawing import Drawing
from diffplan.data.episodes import Episodes
from diffplan.data.info import ObservationLayout
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
    config = steps_config(tiny_config, plan__stride=3, heads__value="critic")
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


def test_returns_by_step_are_those_of_the_training_states(
    join_episodes: Make, tiny_config: Make
) -> None:
    rewards = [np.full(n, float(e)) for e, n in enumerate(LENGTHS)]
    sampler = WindowSampler(
        coded(join_episodes, [1] * 6, rewards), steps_config(tiny_config), seed=0
    )
    found = sampler.returns_by_step(0)
    index = sampler.parts["train"].tensor()
    assert sampler.returns is not None
    assert torch.equal(found.returns, sampler.returns[index])
    assert torch.equal(found.steps, sampler.states[index][:, 1].long())  # states hold their steps


def test_hindsight_goals_lie_ahead_and_the_plan_rests_there(
    join_episodes: Make, tiny_config: Make
) -> None:
    lengths = [9, 14, 6, 30]
    options = {"data__relabel": "hindsight", "data__discount": 0.9}
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
    assert sampler.returns_by_step(0).returns.max() == 1


def test_other_columns_rest_as_they_were_at_the_goal(
    join_episodes: Make, tiny_config: Make
) -> None:
    # place, velocity and, in the last two columns, a posture that goes on changing
    layout = ObservationLayout(6, 2, (1, 0), (2, 3), ("observation",))
    states = [
        np.array([(10 * e, t, 1, 2, t + 0.25, -t) for t in range(n + 1)], float)
        for e, n in enumerate([9, 14, 30])
    ]
    episodes = join_episodes(states, [np.zeros((len(s) - 1, 2)) for s in states], layout=layout)
    for relabel in ("hindsight", "stitched"):
        config, drawing = (
            steps_config(tiny_config, data__relabel=relabel),
            Drawing(hindsight_share=1),
        )
        sampler = WindowSampler(episodes, config, seed=0, drawing=drawing)
        windows = sampler.sample(500, generator())
        assert windows.goals is not None
        place, goal = windows.states[..., 1], windows.goals[:, :1]
        start = place[:, :1]
        assert torch.equal(place, torch.minimum(start + 2 * torch.arange(4), goal))
        assert torch.equal(windows.states[..., 4], place + 0.25)
        assert torch.equal(windows.states[..., 5], -place)
        moving = (place < goal).float()
        assert 0 < moving.mean() < 1
        assert torch.equal(windows.states[..., 2:4], torch.stack([moving, 2 * moving], -1))


def test_a_layout_without_velocities_rests_too(join_episodes: Make, tiny_config: Make) -> None:
    layout = ObservationLayout(2, 2, (0, 1), (), ("observation",))
    states = [np.array([(t, e) for t in range(12)], float) for e in range(3)]
    episodes = join_episodes(states, [np.zeros((11, 2))] * 3, layout=layout)
    config = steps_config(tiny_config, data__relabel="hindsight")
    windows = WindowSampler(episodes, config, seed=0).sample(200, generator())
    assert windows.goals is not None
    ahead = windows.states[:, :1, 0] + 2 * torch.arange(4)
    assert torch.equal(windows.states[..., 0], torch.minimum(ahead, windows.goals[:, :1]))


def test_undiscounted_goals_cost_a_step_each(join_episodes: Make, tiny_config: Make) -> None:
    options = {"data__relabel": "hindsight", "data__discount": 1.0}
    episodes = walking(join_episodes, [9, 30])
    sampler = WindowSampler(episodes, steps_config(tiny_config, **options), seed=0)
    windows = sampler.sample(100, generator())
    assert windows.goals is not None
    left = windows.goals[:, 0] - windows.states[:, 0, 0]
    assert torch.equal(windows.returns[:, 0], -left)
    assert sampler.valued(100, generator()).returns.max() <= 0
    assert sampler.returns_by_step(0).returns.min() > -31


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


@pytest.mark.parametrize("extra", [[0] * 6, [1] * 6])
def test_acted_is_an_action_of_the_first_stride(
    join_episodes: Make, tiny_config: Make, extra: list[int]
) -> None:
    sampler = WindowSampler(coded(join_episodes, extra), steps_config(tiny_config), seed=0)
    assert sampler.sample(5, generator()).acted is None
    windows = sampler.sample(2000, generator(), acted=True)
    acted = windows.acted
    assert acted is not None
    assert set(acted.lag.tolist()) == {1.0, 2.0}
    wanted = windows.states[:, 0, 1] + 2 - acted.lag
    last = (torch.tensor(LENGTHS) + torch.tensor(extra) - 1)[windows.states[:, 0, 0].long()]
    assert torch.equal(acted.mask, (wanted < last).float())
    inside = acted.mask.bool()
    assert torch.equal(acted.states[inside, 1], wanted[inside])
    torch.testing.assert_close(acted.actions[inside], acted.states[inside] / 100)


def test_acted_does_not_count_once_a_window_rests(join_episodes: Make, tiny_config: Make) -> None:
    config = steps_config(tiny_config, data__relabel="hindsight")
    sampler = WindowSampler(walking(join_episodes, [9, 30]), config, seed=0)
    windows = sampler.sample(500, generator(), acted=True)
    assert windows.acted is not None and windows.goals is not None
    begun = windows.states[:, 0, 0] + 2 - windows.acted.lag
    assert torch.equal(windows.acted.mask, (begun < windows.goals[:, 0]).float())
    assert 0 < windows.acted.mask.mean() < 1


def test_actions_of_a_window_stand_beside_the_states_they_were_taken_in(
    join_episodes: Make, tiny_config: Make
) -> None:
    config = steps_config(tiny_config, heads__kind="shared")
    windows = WindowSampler(coded(join_episodes, [1] * 6), config, seed=0).sample(500, generator())
    assert windows.between is not None and windows.actions is not None
    assert windows.between.shape == (500, 3, 2, 2)
    torch.testing.assert_close(windows.between[:, :, 0], windows.states[:, :-1])
    inside = windows.acting == 1
    assert 0.3 < inside.float().mean() < 1
    torch.testing.assert_close(windows.between[inside] / 100, windows.actions[inside])


def test_rewards_of_a_window_are_the_means_on_the_way_to_its_states(
    join_episodes: Make, tiny_config: Make
) -> None:
    rewards = [100.0 * e + np.arange(n) for e, n in enumerate(LENGTHS)]
    config = steps_config(tiny_config, heads__kind="shared", heads__modalities=("rewards",))
    sampler = WindowSampler(coded(join_episodes, [1] * 6, rewards), config, seed=0)
    windows = sampler.sample(300, generator())
    assert windows.rewards is not None
    starts = windows.states[:, 0].int().tolist()
    for (episode, first), found in zip(starts, windows.rewards.tolist(), strict=True):
        steps = np.zeros(first + 6)
        steps[: LENGTHS[episode]] = rewards[episode][: first + 6]
        assert found == steps[first:].reshape(3, 2).mean(1).tolist()


# --- Splits, seeds, mistakes ---------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.34, 2), (0.99, 5)])
def test_held_out_episodes_never_appear_in_training(
    join_episodes: Make, tiny_config: Make, share: float, expected: int
) -> None:
    config, drawing = steps_config(tiny_config), Drawing(held_out=share)
    sampler = WindowSampler(coded(join_episodes, [1] * 6), config, seed=0, drawing=drawing)

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


def test_nothing_is_held_out_where_the_rest_is_too_short(
    join_episodes: Make, tiny_config: Make
) -> None:
    episodes = walking(join_episodes, [1, 1, 30, 1])
    config, drawing = steps_config(tiny_config), Drawing(held_out=0.25)
    for seed in range(12):  # some of them would hold out the only long one
        sampler = WindowSampler(episodes, config, seed=seed, drawing=drawing)
        for part in ("train", "held-out"):
            assert sampler.sample(50, generator(), part).states[:, 0, 1].eq(20).all()


def test_the_split_depends_on_the_seed_alone(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [9] * 30)

    def held(seed: int) -> list[float]:
        config = steps_config(tiny_config, data__relabel="hindsight")
        sampler = WindowSampler(episodes, config, seed=seed, drawing=Drawing(held_out=0.3))
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
        options = {"acted": True} if kind == "sample" else {}
        drawn = dataclasses.astuple(getattr(sampler, kind)(64, generator(seed), **options))
        nested = (value if isinstance(value, tuple) else (value,) for value in drawn)
        return tuple(t for t in itertools.chain.from_iterable(nested) if t is not None)

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
