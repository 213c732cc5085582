"""Dicts of arrays as d4rl and OGBench hand them over become the same episodes."""

from typing import Any

import numpy as np
import pytest

from diffplan.data.episodes import Episodes
from diffplan.envs.formats.arrays import load_arrays
from diffplan.errors import DiffplanError

LENGTH, EPISODES = 20, 5
STEPS = LENGTH * EPISODES


@pytest.fixture
def steps() -> dict[str, np.ndarray]:
    """Episodes of 20 steps; the third of them terminates, the others are cut."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(EPISODES, LENGTH + 1, 29)).cumsum(1).astype(np.float32)
    ends = np.arange(1, STEPS + 1) % LENGTH == 0
    terminals = np.arange(STEPS) == 3 * LENGTH - 1
    return {
        "observations": states[:, :-1].reshape(STEPS, -1),
        "next_observations": states[:, 1:].reshape(STEPS, -1),
        "actions": rng.uniform(-1, 1, (STEPS, 8)).astype(np.float32),
        "rewards": rng.normal(size=STEPS).astype(np.float32),
        "terminals": terminals,
        "timeouts": ends & ~terminals,
    }


def without(arrays: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: array for key, array in arrays.items() if key not in keys}


def same(one: Episodes, other: Episodes) -> None:
    for name in ("states", "actions", "terminations", "truncations", "step_starts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_d4rls_terminals_and_timeouts(steps: dict[str, np.ndarray]) -> None:
    found = load_arrays(steps)
    assert found.num_episodes == EPISODES and len(found.states) == STEPS + EPISODES
    assert found.terminations.sum() == 1 and found.truncations.sum() == EPISODES - 1
    own = without(steps, "terminals", "timeouts") | {
        "terminations": steps["terminals"],
        "truncations": steps["timeouts"],
    }
    same(found, load_arrays(own))
    # as `qlearning_dataset`: ends show where the next observation is not the following row
    same(found, load_arrays(without(steps, "timeouts")))


def test_the_next_episodes_first_row_is_not_taken_for_what_follows_a_terminal(
    steps: dict[str, np.ndarray],
) -> None:
    arrays = without(steps, "timeouts")
    after = arrays["next_observations"].copy()
    after[3 * LENGTH - 1] = arrays["observations"][3 * LENGTH]
    found = load_arrays({**arrays, "next_observations": after})
    assert found.num_episodes == EPISODES and len(found.states) == STEPS
    np.testing.assert_array_equal(found.states, arrays["observations"])


def test_d4rls_name_brings_its_conventions(steps: dict[str, np.ndarray]) -> None:
    goals = np.zeros((STEPS, 2), np.float32)
    found = load_arrays({**steps, "infos/goal": goals}, name="antmaze-umaze-v2")
    assert found.info.id == "antmaze-umaze-v2"
    assert found.info.details["d4rl_name"] == "antmaze-umaze-v2"
    assert found.layout.goal_columns == (0, 1)


def test_ogbenchs_terminals_end_trajectories(steps: dict[str, np.ndarray]) -> None:
    ends = steps["terminals"] | steps["timeouts"]
    regular = without(steps, "rewards", "timeouts") | {"terminals": ends.astype(np.float32)}
    found = load_arrays(regular, name="antmaze-medium-stitch-v0")
    assert not found.terminations.any() and found.truncations.sum() == EPISODES
    assert found.layout.goal_columns == (0, 1) and len(found.info.evaluation_tasks) == 5
    assert found.goals is not None
    np.testing.assert_array_equal(found.goals, found.states[:, :2])
    # compact: a row more at the end of each trajectory, with an action that was not taken
    last = np.repeat(ends, 1 + ends)
    last[:-1] &= ~last[1:]
    rows = np.repeat(steps["observations"], 1 + ends, axis=0)
    rows[last] = steps["next_observations"][ends]
    actions = np.repeat(steps["actions"], 1 + ends, axis=0)
    compact = {"observations": rows, "actions": actions, "valids": 1.0 - last}
    both = last.copy()
    both[:-1] |= last[1:]
    same(found, load_arrays({**compact, "terminals": both.astype(np.float32)}))
    # and the arrays of a file, where the last row is marked
    same(found, load_arrays({**without(compact, "valids"), "terminals": last}))


def test_rewards_of_ogbenchs_single_tasks_are_kept(steps: dict[str, np.ndarray]) -> None:
    ends = steps["terminals"] | steps["timeouts"]
    arrays = without(steps, "timeouts") | {"terminals": ends, "masks": np.ones(STEPS)}
    found = load_arrays(arrays)
    assert not found.terminations.any() and not found.layout.goal_dim
    np.testing.assert_array_equal(found.rewards, steps["rewards"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: without(a, "actions"), "actions missing"),
        (lambda a: without(a, "terminals", "timeouts"), "arrays: terminations missing"),
        (lambda a: {**a, "terminals": a["terminals"] * 2.0}, "terminals holds 2.0 at step 59"),
        (
            lambda a: (
                {k: v[np.random.default_rng(0).permutation(STEPS)] for k, v in a.items()}
                | {"timeouts": a["timeouts"]}
            ),
            "not observations of step 1",
        ),
        (
            lambda a: {
                k: v[np.random.default_rng(0).permutation(STEPS)]
                for k, v in without(a, "timeouts").items()
            },
            "not in order of time",
        ),
        (lambda a: without(a, "rewards") | {"observations": a["observations"][1:]}, "as many rows"),
    ],
)
def test_what_fits_no_layout_is_named(
    change: Any, expected: str, steps: dict[str, np.ndarray]
) -> None:
    with pytest.raises(DiffplanError, match=expected) as error:
        load_arrays(change(steps))
    assert "\n" not in str(error.value) and ".hdf5" not in str(error.value)
