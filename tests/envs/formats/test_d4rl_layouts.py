"""Files of each D4RL domain, tiny, in exactly its layout."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from diffplan.data.episodes import Episodes
from diffplan.envs.formats import d4rl_hdf5
from diffplan.envs.formats.d4rl import load_d4rl
from diffplan.envs.simulators.environments import make_env
from diffplan.errors import DiffplanError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[1, 1 << 24], ids=["small pieces", "one piece"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boundaries between pieces must not show."""
    monkeypatch.setattr(d4rl_hdf5, "_PIECE_BYTES", request.param)


def write(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            array = np.asarray(array)
            chunks = (min(4, len(array)), *array.shape[1:]) if array.ndim else None
            file.create_dataset(key, data=array, chunks=chunks)
    return path


def flags(steps: int, *true: int) -> np.ndarray:
    return np.isin(np.arange(steps), true)


def states_of(episodes: Episodes, e: int) -> np.ndarray:
    return episodes.states[episodes.state_starts[e] : episodes.state_starts[e + 1]]


def rewards_of(episodes: Episodes, e: int) -> list[float]:
    return episodes.rewards[episodes.step_starts[e] : episodes.step_starts[e + 1]].tolist()


def check_environment(episodes: Episodes) -> None:
    """The evaluation environment's observations split into states and goals like the data's."""
    env = make_env(episodes.info)
    state, goal = episodes.layout.split(env.reset(seed=0)[0])
    assert state.shape == episodes.states.shape[1:]
    assert (goal is None) == (episodes.goals is None)
    assert env.action_space.shape == episodes.actions.shape[1:]
    env.close()


# --- maze2d ---------------------------------------------------------------------------------


def maze2d(steps: int = 10) -> dict[str, np.ndarray]:
    """One continuous trajectory; the goal changes after steps 3 and 7; reward t is of state t."""
    observations = np.arange(steps * 4, dtype=np.float32).reshape(steps, 4)
    return {
        "observations": observations,
        "actions": np.zeros((steps, 2), np.float32),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminals": np.zeros(steps, np.bool_),
        "timeouts": flags(steps, 3, 7),
        "infos/goal": np.repeat([[1, 1], [2, 2], [3, 3]], [4, 4, steps - 8], axis=0) * 1.0,
        "infos/qpos": observations[:, :2],
        "infos/qvel": observations[:, 2:],
    }


@pytest.mark.usefixtures("_pieces")
def test_maze2d_rewards_follow_their_actions(tmp_path: Path) -> None:
    arrays = maze2d()
    episodes = load_d4rl(write(tmp_path / "maze2d-umaze-sparse-v1.hdf5", arrays)).validate()
    assert episodes.lengths.tolist() == [4, 4, 1]
    assert [rewards_of(episodes, e) for e in range(3)] == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]
    for e, first in enumerate((0, 4, 8)):
        steps = episodes.lengths[e]
        np.testing.assert_array_equal(
            states_of(episodes, e), arrays["observations"][first : first + steps + 1]
        )
    assert episodes.goals is not None
    assert episodes.goals[:, 0].tolist() == [1] * 5 + [2] * 5 + [3] * 2
    assert not episodes.terminations.any()
    assert np.flatnonzero(episodes.truncations).tolist() == [3, 7, 8]
    assert "fixed evaluation goal" in episodes.info.details["rewards_for"]
    assert (episodes.layout.goal_columns, episodes.layout.rest_columns) == ((0, 1), (2, 3))
    assert episodes.info.env_id == "diffplan/maze2d-umaze-v1"
    check_environment(episodes)


@pytest.mark.usefixtures("_pieces")
def test_maze2d_repeated_observations_are_no_transitions(tmp_path: Path) -> None:
    """Row 4 repeats row 3: neither 3 to 4 nor 4 to 5 is one step of the simulation."""
    arrays = maze2d()
    arrays["observations"][4] = arrays["observations"][3]
    episodes = load_d4rl(write(tmp_path / "maze2d-umaze-dense-v1.hdf5", arrays)).validate()
    assert episodes.lengths.tolist() == [4, 3, 1]
    assert [len(states_of(episodes, e)) for e in range(3)] == [4, 4, 2]
    np.testing.assert_array_equal(states_of(episodes, 1), arrays["observations"][5:9])
    assert rewards_of(episodes, 1) == [6, 7, 8]
    assert episodes.goals is not None
    assert episodes.goals[:, 0].tolist() == [1] * 4 + [2] * 4 + [3] * 2


def test_neighbours_are_compared_in_pieces_and_one_row_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, spans = d4rl_hdf5.D4RLFile.rows, []

    def watched(file: d4rl_hdf5.D4RLFile, key: str, start: int, stop: int) -> np.ndarray:
        spans.append(stop - start)
        return rows(file, key, start, stop)

    monkeypatch.setattr(d4rl_hdf5, "_PIECE_BYTES", 1)
    monkeypatch.setattr(d4rl_hdf5.D4RLFile, "rows", watched)
    load_d4rl(write(tmp_path / "maze2d-umaze-dense-v1.hdf5", maze2d()))
    assert max(spans) == 5  # chunks of four


def test_maze2d_without_goals_or_timeouts(tmp_path: Path) -> None:
    """Cut at the time limit, 300 steps; the environment's goal is not part of the state."""
    arrays = maze2d(302)
    del arrays["infos/goal"], arrays["timeouts"]
    episodes = load_d4rl(write(tmp_path / "maze2d-umaze-v1.hdf5", arrays)).validate()
    assert episodes.lengths.tolist() == [300, 1]
    assert episodes.goals is None
    check_environment(episodes)


def test_maze2d_never_terminates(tmp_path: Path) -> None:
    """Files before v1 mark the legs by terminals."""
    arrays = maze2d()
    arrays["terminals"] = arrays.pop("timeouts")
    episodes = load_d4rl(write(tmp_path / "maze2d-open-sparse.hdf5", arrays)).validate()
    assert episodes.lengths.tolist() == [4, 4, 1]
    assert not episodes.terminations.any()
    assert episodes.info.env_id == "diffplan/maze2d-open-v0"


# --- antmaze --------------------------------------------------------------------------------


def antmaze(steps: int = 12) -> dict[str, np.ndarray]:
    """29 columns; the goal is reached at steps 4 to 6, cut at step 9."""
    rng = np.random.default_rng(0)
    reached = flags(steps, 4, 5, 6)
    return {
        "observations": rng.normal(size=(steps, 29)).astype(np.float32),
        "actions": np.zeros((steps, 8), np.float32),
        "rewards": reached.astype(np.float32),
        "terminals": reached.astype(np.float32),
        "timeouts": flags(steps, 9),
        "infos/goal": np.ones((steps, 2), np.float32),
        "infos/qpos": np.zeros((steps, 15), np.float32),
        "infos/qvel": np.zeros((steps, 14), np.float32),
    }


NAME = "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"


@pytest.mark.usefixtures("_pieces")
def test_antmaze_goes_on_behind_the_goal(tmp_path: Path) -> None:
    arrays = antmaze()
    episodes = load_d4rl(write(tmp_path / NAME, arrays)).validate()
    assert episodes.lengths.tolist() == [5, 3, 2]
    assert episodes.returns.tolist() == [1, 0, 0]
    assert np.flatnonzero(episodes.terminations).tolist() == [4]
    np.testing.assert_array_equal(states_of(episodes, 1), arrays["observations"][7:10])
    assert episodes.layout.state_dim == 29
    assert episodes.layout.goal_columns == (0, 1)
    assert episodes.info.env_id == "diffplan/antmaze-umaze-v2"
    assert "environment_differences" in episodes.info.details
    check_environment(episodes)


def test_antmaze_in_an_environment_that_keeps_x_and_y_apart(tmp_path: Path) -> None:
    """gymnasium-robotics: 27 columns, x and y are the achieved goal."""
    episodes = load_d4rl(write(tmp_path / NAME, antmaze()), "AntMaze_UMaze-v4")
    assert episodes.layout.dict_keys == ("achieved_goal", "observation")
    check_environment(episodes)


# --- kitchen --------------------------------------------------------------------------------


def test_kitchen_has_60_columns_and_no_timeouts(tmp_path: Path) -> None:
    steps = 600
    arrays = {
        "observations": np.zeros((steps, 60), np.float32),
        "actions": np.zeros((steps, 9), np.float32),
        "rewards": np.minimum(np.arange(steps) // 50, 4).astype(np.float32),
        "terminals": flags(steps, 199, 599),
    }
    path = tmp_path / "mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
    episodes = load_d4rl(write(path, arrays)).validate()
    assert episodes.lengths.tolist() == [200, 280, 120]
    assert np.flatnonzero(episodes.terminations).tolist() == [199, 599]
    assert np.flatnonzero(episodes.truncations).tolist() == [479]
    assert episodes.info.details["cut_at_time_limit"] == 280
    assert episodes.info.details["d4rl_name"] == "kitchen-complete-v0"
    assert episodes.info.env_id == "diffplan/kitchen-complete-v0"
    check_environment(episodes)


# --- Adroit ---------------------------------------------------------------------------------


def pen(steps: int, *ends: int) -> dict[str, np.ndarray]:
    return {
        "observations": np.zeros((steps, 45), np.float64),
        "actions": np.zeros((steps, 24), np.float64),
        "rewards": np.ones((steps, 1), np.float64),
        "terminals": np.zeros(steps, np.bool_),
        "timeouts": flags(steps, *ends),
    }


def test_demonstrations_longer_than_the_time_limit_stay_whole(tmp_path: Path) -> None:
    episodes = load_d4rl(write(tmp_path / "pen-human-v1.hdf5", pen(400, 199, 399))).validate()
    assert episodes.lengths.tolist() == [200, 200]
    assert episodes.returns.tolist() == [200, 200]
    assert episodes.states.dtype == episodes.rewards.dtype == np.float32
    env = make_env(episodes.info)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 100
    env.close()


def test_pen_without_timeouts_is_cut_where_d4rl_stops(tmp_path: Path) -> None:
    arrays = pen(250)
    del arrays["timeouts"]
    episodes = load_d4rl(write(tmp_path / "pen-cloned-v1.hdf5", arrays)).validate()
    assert episodes.lengths.tolist() == [100, 100, 50]
    check_environment(episodes)


# --- Gym ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_pieces")
def test_gym_replay_files(tmp_path: Path) -> None:
    """float64, next_observations, infos and metadata with text and scalars beside the arrays."""
    rng = np.random.default_rng(0)
    steps = 9
    observations = rng.normal(size=(steps, 17))
    after = np.concatenate([observations[1:], rng.normal(size=(1, 17))])
    after[[2, 5]] += 1  # where the first two episodes end
    arrays = {
        "observations": observations,
        "next_observations": after,
        "actions": rng.uniform(-1, 1, (steps, 6)),
        "rewards": rng.normal(size=steps),
        "terminals": flags(steps, 2),
        "timeouts": flags(steps, 5),
        "infos/action_log_probs": np.zeros(steps),
        "infos/qpos": np.zeros((steps, 9)),
        "infos/qvel": np.zeros((steps, 9)),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/iteration": np.int32(7),
        "metadata/policy/fc0/weight": np.zeros((256, 17), np.float32),
    }
    episodes = load_d4rl(write(tmp_path / "walker2d_medium_replay-v2.hdf5", arrays)).validate()
    assert episodes.lengths.tolist() == [3, 3, 3]
    for e in range(3):
        expected = np.concatenate([observations[3 * e : 3 * e + 3], after[3 * e + 2][None]])
        np.testing.assert_array_equal(states_of(episodes, e), expected.astype(np.float32))
    np.testing.assert_array_equal(episodes.actions, arrays["actions"].astype(np.float32))
    assert episodes.info.details["d4rl_name"] == "walker2d-medium-replay-v2"
    assert episodes.info.details["data_source"] == "not D4RL's file"


@pytest.mark.parametrize("name", ["hopper_medium-v2", "mystery"])
def test_files_in_which_nothing_ends_are_refused(tmp_path: Path, name: str) -> None:
    steps = 1001
    arrays = {
        "observations": np.zeros((steps, 11)),
        "actions": np.zeros((steps, 3)),
        "rewards": np.zeros(steps),
        "terminals": flags(steps),
        "timeouts": flags(steps),
    }
    path = write(tmp_path / f"{name}.hdf5", arrays)
    with pytest.raises(DiffplanError, match="no episode ends in 1,001 steps") as caught:
        load_d4rl(path)
    assert "\n" not in str(caught.value)
    del arrays["timeouts"]
    if name != "mystery":
        assert load_d4rl(write(path, arrays)).lengths.tolist() == [1000, 1]


# --- Whose file it is -----------------------------------------------------------------------


@pytest.mark.parametrize(("demonstrations", "label"), [(25, "D4RL file"), (50, "not D4RL's file")])
def test_the_label_of_the_data_goes_by_the_contents(
    tmp_path: Path, demonstrations: int, label: str
) -> None:
    length = 5_000 // demonstrations
    arrays = pen(5_000, *range(length - 1, 5_000, length))
    episodes = load_d4rl(write(tmp_path / "pen-human-v1.hdf5", arrays))
    assert episodes.num_episodes == demonstrations
    assert episodes.info.details["data_source"] == label
