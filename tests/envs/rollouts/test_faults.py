"""Environments that misbehave: the episode is named, the others count as if nothing had been."""

import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from diffplan.envs.rollouts.reading import Fault, read_observation, read_step
from diffplan.envs.rollouts.serial import rollout, time_decisions
from diffplan.errors import DiffplanError, RowsError


class Shaky(gym.Env):
    """Four steps an episode; that of seed 12 fails in its third. Writes into one array."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    made = 0

    def __init__(self):
        Shaky.made += 1
        self.seen = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        self.seed, self.time = seed, 0
        self.seen[:] = seed, 0
        return self.seen, {}

    def step(self, action):
        self.time += 1
        if (self.seed, self.time) == (12, 3):
            raise SystemExit("bye")
        self.seen[1] = self.time
        return self.seen, float(self.seed), self.time == 4, False, {}


class Still:
    """Actions of zero; none for an observation of the seed `blind`."""

    def __init__(self, blind=None):
        self.blind, self.forgotten = blind, []

    def reset_rows(self, state, rows, seeds):
        self.forgotten.append(rows.copy())
        return state

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        rows = np.flatnonzero(observation[:, 0] == self.blind).tolist()
        if rows:
            raise RowsError("nothing comes to mind", rows)
        return np.zeros((len(observation), 1), np.float32), state


ASKED = {"episodes": 6, "seed": 10, "progress": False}


@pytest.mark.parametrize("num_envs", [1, 3, 6])
def test_the_other_episodes_are_kept(num_envs):
    policy = Still()
    found = rollout(policy, Shaky, num_envs=num_envs, keep_going=True, record=6, **ASKED)
    assert found.episodes.tolist() == [0, 1, 3, 4, 5]
    assert found.returns.tolist() == [40.0, 44.0, 52.0, 56.0, 60.0]
    (failure,) = found.failures
    assert (failure.episode, failure.seed, failure.step) == (2, 12, 3)
    assert str(failure) == "episode 2 (seed 12) failed at step 3: SystemExit: bye"
    # what is recorded is a copy, though the environment has one array for all
    assert [trace.seed for trace in found.traces] == [10, 11, 13, 14, 15]
    assert found.traces[0].observations.tolist() == [[10, t] for t in range(5)]


def test_a_failed_row_is_made_again_and_forgotten():
    Shaky.made, policy = 0, Still()
    rollout(policy, Shaky, num_envs=3, keep_going=True, **ASKED)
    assert Shaky.made == 4
    # the row of the failed episode begins its next one, and so do the others a step later
    assert [rows.tolist() for rows in policy.forgotten] == [
        [True, True, True],
        [False, False, True],
        [True, True, False],
    ]


def test_without_keep_going_it_is_one_line():
    with pytest.raises(DiffplanError, match=r"^Shaky, episode 2 \(seed 12\) failed at step 3: Sys"):
        rollout(Still(), Shaky, num_envs=6, **ASKED)


def test_rows_without_an_action_fail_alone():
    found = rollout(Still(blind=11), Shaky, num_envs=6, keep_going=True, **ASKED)
    assert [str(failure) for failure in found.failures] == [
        "episode 1 (seed 11) failed at step 1: nothing comes to mind",
        "episode 2 (seed 12) failed at step 3: SystemExit: bye",
    ]
    assert found.returns.tolist() == [40.0, 52.0, 56.0, 60.0]


def test_a_step_that_takes_too_long_fails():
    class Hanging(Shaky):
        def step(self, action):
            while self.seed == 11:
                pass
            return super().step(action)

    found = rollout(
        Still(), Hanging, num_envs=2, keep_going=True, step_seconds=0.1, **{**ASKED, "episodes": 2}
    )
    assert str(found.failures[0]) == "episode 1 (seed 11) failed at step 1: no answer within 0.1 s"
    assert found.returns.tolist() == [40.0]


def test_decisions_are_timed_past_failures():
    times = time_decisions(Still(), Shaky, seed=10, steps=20, warmup=2)
    assert times.ms.shape == (20,)

    class Broken(Shaky):
        def reset(self, *, seed=None, options=None):
            return None

    with pytest.raises(DiffplanError, match="no decisions could be timed: Broken, seed"):
        time_decisions(Still(), Broken, seed=0)


def test_numbers_are_taken_in_the_types_of_their_space():
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    space = gym.spaces.Dict({"place": box, "name": gym.spaces.Text(5)})
    place = np.array([0.5, 1.0])
    found = read_observation(space, {"place": place, "name": "x", "more": 1})
    assert found.keys() == {"place", "name"} and found["place"].dtype == np.float32
    place[0] = 9
    assert found["place"][0] == 0.5
    for success, expected in ((np.float32(1), True), (np.array(False), False), (None, None)):
        info = {"is_success": success}
        step = read_step(box, (place, np.float64(2), np.bool_(0), 1, info))
        assert (step.success, step.over, step.terminated, step.reward) == (expected, True, False, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: [1.0, np.nan]}, "observation has nan in column 1"),
        ({0: np.zeros((2, 1))}, r"observation has shape \(2, 1\), its space \(2,\)"),
        ({0: "up"}, "observation is 'up', expected numbers"),
        ({1: np.ones(1)}, r"reward is an array of shape \(1,\), expected a number"),
        ({1: -np.inf}, "reward is -inf"),
        ({1: 1e300}, r"reward is 1e\+300, expected a finite number of float32"),
        ({1: 1j}, "reward is a complex"),
        ({2: "no"}, "terminated is 'no'"),
        ({3: 0.5}, "truncated is 0.5, expected True or False"),
        ({4: None}, "info is None, expected a dict"),
        ({4: {"success": [True]}}, "success is a list of 1"),
    ],
)
def test_slips_are_named(change, message):
    step = {0: np.zeros(2), 1: 0.0, 2: False, 3: False, 4: {}} | change
    with pytest.raises(Fault, match=message):
        read_step(gym.spaces.Box(-1, 1, (2,), np.float32), tuple(step.values()))


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Speechless(), "Speechless"),
        (ValueError("x" * 10_000), f"ValueError: {'x' * 500}$"),
    ],
)
def test_whatever_an_environment_raises_is_a_line(error, reason, monkeypatch):
    def step(self, action):
        raise error

    monkeypatch.setattr(Shaky, "step", step)
    with pytest.raises(DiffplanError, match=reason):
        rollout(Still(), Shaky, num_envs=1, **ASKED)


def test_an_interrupt_of_its_own_is_a_fault_where_ctrl_c_is_handled(monkeypatch):
    def reset(self, *, seed=None, options=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Shaky, "reset", reset)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = rollout(Still(), Shaky, num_envs=1, keep_going=True, **ASKED)
        assert {failure.reason for failure in found.failures} == {"KeyboardInterrupt"}
        # whoever started the tests may ignore it, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            rollout(Still(), Shaky, num_envs=1, keep_going=True, **ASKED)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_folder_is_kept(monkeypatch, tmp_path):
    before = Path.cwd()
    step = Shaky.step

    def wandering(self, action):
        os.chdir(tmp_path)
        return step(self, action)

    monkeypatch.setattr(Shaky, "step", wandering)
    rollout(Still(), Shaky, num_envs=1, keep_going=True, **ASKED)
    assert Path.cwd() == before
