"""What is measured on data before training: on processes whose answer is known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from diffplan.config.config import Config, with_settings
from diffplan.config.planners import get_config
from diffplan.data.episodes import Episodes
from diffplan.data.info import ObservationLayout
from diffplan.training.defaults import decide
from diffplan.training.evidence import ended_by_success, gait, half_life, left_alone, speed_kept

Make = Callable[..., Episodes]


def autoregressive(join: Make, factor: float, scale: float = 1.0, episodes: int = 100) -> Episodes:
    """x_t+1 = factor x_t + noise in two columns, begun as it goes on; a third never moves."""
    rng = np.random.default_rng(0)
    states = np.zeros((episodes, 400, 3))
    states[:, 0, :2] = rng.normal(size=(episodes, 2))
    for t in range(1, 400):
        noise = rng.normal(size=(episodes, 2)) * np.sqrt(1 - factor**2)
        states[:, t, :2] = factor * states[:, t - 1, :2] + noise
    states = scale * (states + 5)
    return join(list(states), [np.zeros((399, 1))] * episodes, [np.ones(399)] * episodes)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_half_life_of_an_autoregressive_process(join_episodes: Make, steps: int) -> None:
    factor = 0.5 ** (1 / (steps - 0.5))  # below one half from `steps` on
    measured = [half_life(autoregressive(join_episodes, factor, scale)) for scale in (1, 1e-4, 1e4)]
    assert measured == [steps] * 3  # whatever the units


def test_states_that_never_change_or_never_decorrelate(join_episodes: Make) -> None:
    still = join_episodes([np.ones((50, 2))], [np.zeros((49, 1))])
    assert half_life(still) == 1
    single = [np.full((1, 1), float(i)) for i in range(5)]
    assert half_life(join_episodes(single, [np.zeros((1, 1))] * 5)) == 1
    # each episode has a state of its own
    apart = [np.full((50, 1), float(i)) for i in range(5)]
    assert half_life(join_episodes(apart, [np.zeros((49, 1))] * 5)) == 49


@pytest.mark.parametrize(
    ("steps", "stride", "replan"), [(1, 1, 1), (3, 1, 3), (7, 2, 6), (8, 2, 8)]
)
def test_fast_states_get_finer_plans(
    join_episodes: Make, steps: int, stride: int, replan: int
) -> None:
    episodes = autoregressive(join_episodes, 0.5 ** (1 / (steps - 0.5)))
    config, decisions = decide(Config(), episodes)
    assert (config.plan.stride, config.planning.replan_every) == (stride, replan)
    assert config.planning.start == ("process" if steps < 4 else "raw")
    assert all(f"in {steps} step" in each.reason for each in decisions if "plan" in each.setting)
    kept, left = decide(get_config("proposer-only"), episodes)
    assert (kept.planning.start, kept.planning.denoising_steps) == ("none", 0)
    given, left = decide(with_settings(Config(), {"plan.stride": 3}), episodes)
    assert given.plan.stride == 3
    assert "plan.stride" not in {each.setting for each in left}


def lingering(join: Make, success_ends: bool) -> Episodes:
    """Ten episodes whose reward grows; where success ends them half are short."""
    lengths = [20 if success_ends and i % 5 else 60 for i in range(10)]
    rewards = [np.linspace(0, 1, n) if n < 60 else np.ones(n) for n in lengths]
    rng = np.random.default_rng(0)
    return join(
        [rng.normal(size=(n + 1, 2)) for n in lengths], [np.zeros((n, 1)) for n in lengths], rewards
    )


def test_no_return_is_asked_for_where_success_ends_episodes(join_episodes: Make) -> None:
    ended = lingering(join_episodes, True)
    assert ended_by_success(ended) == 0.8
    config, decisions = decide(Config(), ended)
    assert config.data.condition_on_returns is False
    assert config.data.best_of_windows == 1
    assert any("80% of the episodes" in each.reason for each in decisions)
    plain = lingering(join_episodes, False)
    assert ended_by_success(plain) == 0
    config, decisions = decide(Config(), plain)
    assert (config.data.condition_on_returns, config.planning.target) == (True, "by-step")
    # what is so for all data of the kind is nothing that these have decided
    assert config.data.best_of_windows == 16
    assert not any(each.setting.startswith("data.") for each in decisions)


def carried(join: Make, waits: int, scale: float = 1.0, rests: int = 0) -> Episodes:
    """A hand and what it carries for the last 20 of 20 + waits steps; then both rest."""
    episodes = []
    for seed in range(20):
        steps = np.random.default_rng(seed).normal(size=(20 + waits, 2))
        hand = np.cumsum(np.sign(steps), 0)
        thing = hand - hand[waits] * 1.0
        thing[:waits] = 0
        both = np.concatenate([thing, hand], 1)
        episodes.append(scale * np.concatenate([both, np.repeat(both[-1:], rests, 0)]))
    layout = ObservationLayout(4, 2, (0, 1), (), ("observation",))
    return join(episodes, [np.zeros((len(e) - 1, 1)) for e in episodes], layout=layout)


def test_it_is_said_of_how_many_things_goals_are(join_episodes: Make) -> None:
    def moved_in_turn(seed: int) -> np.ndarray:
        moves = np.random.default_rng(seed).normal(size=(80, 3))
        for column, resting in ((1, (0, 1, 3)), (2, (0, 2, 3))):
            for part in resting:
                moves[20 * part : 20 * part + 20, column] = 0
        return moves.cumsum(0)

    layout = ObservationLayout(3, 2, (1, 2), (), ("observation",))
    episodes = [moved_in_turn(seed) for seed in range(20)]
    joined = join_episodes(episodes, [np.zeros((79, 1))] * 20, layout=layout)
    reasons = {each.setting: each.reason for each in decide(Config(), joined)[1]}
    told = "they are of 2 things (goal 0, 1), brought to their goals one by one, and no columns"
    assert told in reasons["data.relabel"]
    reasons = {
        each.setting: each.reason for each in decide(Config(), carried(join_episodes, 20))[1]
    }
    told = "they are of one thing (goal 0 1), and no columns of the state were found"
    assert told in reasons["data.relabel"]


def test_episodes_too_short_for_things_are_decided_all_the_same(join_episodes: Make) -> None:
    layout = ObservationLayout(2, 1, (0,), (), ("observation",))
    episodes = []
    for seed in range(40):
        hand = np.random.default_rng(seed).normal(size=4).cumsum()
        thing = np.array([0.0, 0, 0, seed % 2]) + seed
        episodes.append(np.stack([thing, hand], 1))
    joined = join_episodes(episodes, [np.zeros((3, 1))] * 40, layout=layout)
    reasons = {each.setting: each.reason for each in decide(Config(), joined)[1]}
    assert "no thing that moves long enough to be told" in reasons["data.relabel"]


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_goals_are_the_episodes_own_where_their_columns_are_not_what_moves(
    join_episodes: Make, scale: float
) -> None:
    waiting = carried(join_episodes, 20, scale)
    assert 0.3 < left_alone(waiting) < 0.6
    assert 0.3 < left_alone(carried(join_episodes, 20, scale, rests=100)) < 0.6
    config, decisions = decide(Config(), waiting)
    assert config.data.relabel == "arrivals"
    assert config.planning.subgoal_steps == 0
    assert any("the goal's columns stand still" in each.reason for each in decisions)
    assert decide(Config(), carried(join_episodes, 0, scale))[0].data.relabel == "stitched"
    # where nothing is ever moved there is nothing to arrive at
    never = waiting.states.copy()
    of = np.repeat(np.arange(waiting.num_episodes), np.diff(waiting.state_starts))
    never[:, :2] = of[:, None]
    assert decide(Config(), replace(waiting, states=never))[0].data.relabel == "hindsight"
    trembling = waiting.states.copy()
    trembling[:, :2] = scale
    trembling[::50, :2] *= 1 + 1e-6
    assert decide(Config(), replace(waiting, states=trembling))[0].data.relabel == "hindsight"
    # columns that are not known cannot stand still
    unknown = replace(waiting, layout=replace(waiting.layout, goal_columns=()))
    assert left_alone(unknown) == 0
    given = decide(with_settings(Config(), {"data.relabel": "stitched"}), waiting)[0]
    assert given.data.relabel == "stitched"


def walked(join: Make, swing: float) -> Episodes:
    """A place that moves on, joints that swing in 8 steps beside noise, a column that rests."""
    noise = autoregressive(join, 0.5)
    rng = np.random.default_rng(1)
    states = []
    for own in np.split(noise.states - 5, 100):
        phase = 2 * np.pi * (np.arange(400) / 8 + rng.random())
        joints = own + swing * np.stack([np.sin(phase), np.cos(phase), 0 * phase], 1)
        states.append(np.concatenate([np.cumsum(own[:, :2], 0), joints], 1))
    layout = ObservationLayout(5, 2, (0, 1), (), ("observation",))
    return join(states, [np.zeros((399, 1))] * 100, layout=layout)


def test_a_gait_about_which_bodies_differ_is_one(join_episodes: Make) -> None:
    rng = np.random.default_rng(0)
    phase = 2 * np.pi * (np.arange(400) / 8 + rng.random((400, 1)))
    # half of the variance is the episode's own: correlation falls to .05, not below zero
    states = np.cos(phase) + np.sqrt(0.55) * rng.normal(size=(400, 1))
    layout = ObservationLayout(2, 1, (0,), (), ("observation",))
    pairs = np.stack([np.cumsum(np.ones_like(states), 1), states], -1)
    episodes = join_episodes(list(pairs), [np.zeros((399, 1))] * 400, layout=layout)
    assert gait(episodes, np.array([False, True])) == 8


def kept_of(episodes: Episodes) -> float:
    return speed_kept(episodes, (0, 1), 32)


def test_how_much_of_its_speed_brisk_motion_keeps(join_episodes: Make) -> None:
    def walking(turns: int) -> float:
        """Of walks that go straight for so many steps, then turn anywhere."""
        angle = np.random.default_rng(0).uniform(0, 7, (50, 400 // turns)).repeat(turns, 1)
        places = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1), 1)
        layout = ObservationLayout(2, 2, (0, 1), (), ("observation",))
        return kept_of(join_episodes(list(places), [np.zeros((399, 1))] * 50, layout=layout))

    assert walking(400) == pytest.approx(1, abs=1e-4)
    # four legs of eight steps each: the 90 % quantile of a Rayleigh law
    assert walking(8) == pytest.approx((np.log(10) * 8 / 32) ** 0.5, rel=0.1)
    assert walking(2) < walking(4) < walking(8)
    # round in eight steps: after 32 it is back
    ant = walked(join_episodes, 1.0)
    circling, phase = ant.states.copy(), 2 * np.pi * np.arange(len(ant.states)) / 8
    circling[:, :2] = np.stack([np.cos(phase), np.sin(phase)], 1)
    config, _ = decide(Config(), replace(ant, states=circling))
    assert (config.plan.columns, config.heads.gain) == ("goal", 3.0)


def test_plans_hold_the_goal_alone_where_the_rest_is_a_gait(join_episodes: Make) -> None:
    ant = walked(join_episodes, 1.0)
    config, decisions = decide(Config(), ant)
    assert (config.plan.columns, config.heads.lookahead) == ("goal", 5)
    assert (config.planning.replan_every, config.planning.detour_after) == (4, 64)
    assert config.planning.subgoal_steps == 16
    assert any("a period of 8 steps" in each.reason for each in decisions)
    # where the place is drawn to and fro a plan is a period long, and led to at its first speed
    assert config.plan.horizon == 5
    assert config.heads.gain == pytest.approx(1 / kept_of(ant), abs=0.06)
    for given, rows in (({"heads.lookahead": 8}, 8), ({"planning.replan_every": 13}, 7)):
        assert decide(with_settings(Config(), given), ant)[0].plan.horizon == rows
    straight = ant.states.copy()
    straight[:, :2] += np.arange(len(straight))[:, None] * [10.0, 5.0]
    config, _ = decide(Config(), replace(ant, states=straight))
    assert (config.plan.columns, config.plan.horizon, config.heads.gain) == ("goal", 16, 1.0)
    # a reach, whose speeds are as short-lived but do not swing
    config, _ = decide(Config(), walked(join_episodes, 0.0))
    assert (config.plan.columns, config.heads.lookahead) == ("all", 1)
    assert (config.planning.replan_every, config.planning.detour_after) == (16, 0)
    # who cannot read such plans, or is told otherwise
    assert decide(get_config("multi-task"), ant)[0].plan.columns == "all"
    for setting in ({"plan.columns": "all"}, {"data.relabel": "hindsight"}):
        kept = decide(with_settings(Config(), setting), ant)[0]
        assert (kept.plan.columns, kept.heads.lookahead) == ("all", 1)
    short = with_settings(Config(), {"plan.horizon": 1})
    given = decide(short, ant)[0]
    assert (given.heads.lookahead, given.planning.replan_every) == (1, 2)
    # the rest stands still
    still = replace(ant, states=np.where(np.arange(5) < 2, ant.states, 1.0).astype(np.float32))
    assert decide(Config(), still)[0].plan.columns == "all"


def test_plans_are_no_longer_than_episodes(join_episodes: Make) -> None:
    def steps(count: int) -> Episodes:
        states = np.random.default_rng(0).normal(size=(9, count + 1, 2))
        return join_episodes(list(states), [np.zeros((count, 1))] * 9)

    plan = decide(Config(), steps(5))[0].plan
    assert plan.horizon * plan.stride <= 5
    assert decide(Config(), steps(50))[0].plan.horizon == 8
    given = decide(with_settings(Config(), {"plan.horizon": 7}), steps(5))[0]
    assert given.plan.horizon == 7
