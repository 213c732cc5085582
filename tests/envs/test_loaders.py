"""Loaders: Minari of any kind, HDF5 in the D4RL layout, .npz archives; traps and bad files."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from diffplan.data.episodes import DatasetInfo, Episodes
from diffplan.envs import cache
from diffplan.envs.arrays import load_arrays
from diffplan.envs.d4rl import load_d4rl
from diffplan.envs.environments import make_env
from diffplan.envs.flat import action_bounds
from diffplan.envs.minari_data import load_minari
from diffplan.errors import DiffplanError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "episodes"


# --- Minari ---------------------------------------------------------------------------------


def write_minari(dataset_id: str, env_id: str, lengths: list[int], **kwargs: Any) -> None:
    """A Minari dataset of random actions in a real environment."""
    env = gym.make(env_id, **kwargs)
    env.action_space.seed(0)
    buffers = []
    for e, length in enumerate(lengths):
        observations, actions, rewards = [env.reset(seed=e)[0]], [], []
        for _ in range(length):
            actions.append(env.action_space.sample())
            observation, reward, _, _, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        stacked: Any = observations
        if isinstance(observations[0], dict):
            stacked = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        last = np.arange(length) == length - 1
        terminations, truncations = (last, last & False) if e % 2 else (last & False, last)
        buffers.append(
            EpisodeBuffer(
                observations=stacked,
                actions=np.stack(actions),
                rewards=rewards,
                terminations=terminations,
                truncations=truncations,
            )
        )
    minari.create_dataset_from_buffers(dataset_id, buffers, env=env)
    env.close()


def test_minari_boxes(minari_root: Path) -> None:
    write_minari("hopper/random-v0", "Hopper-v5", [7, 4])
    episodes = load_minari("hopper/random-v0", progress=False).validate()
    dataset = minari.load_dataset("hopper/random-v0")
    assert episodes.layout.dict_keys == ()
    assert episodes.goals is None
    assert episodes.lengths.tolist() == [7, 4]
    assert np.diff(episodes.state_starts).tolist() == [8, 5]
    np.testing.assert_array_equal(episodes.states[8:], dataset[1].observations.astype(np.float32))
    np.testing.assert_array_equal(episodes.rewards[7:], dataset[1].rewards.astype(np.float32))
    assert np.flatnonzero(episodes.truncations).tolist() == [6]
    assert np.flatnonzero(episodes.terminations).tolist() == [10]
    assert episodes.info.env_id == "Hopper-v5"
    env = make_env(episodes.info)
    state, goal = episodes.layout.split(env.reset(seed=0)[0])
    assert goal is None
    np.testing.assert_array_equal(state, episodes.states[0])
    env.close()


def test_minari_goal_dicts_whose_goal_is_outside_the_observation(minari_root: Path) -> None:
    write_minari("antmaze/random-v0", "AntMaze_UMaze-v4", [5, 3])
    episodes = load_minari("antmaze/random-v0", progress=False).validate()
    assert episodes.layout.dict_keys == ("achieved_goal", "observation")
    assert episodes.layout.goal_columns == (0, 1)
    assert episodes.layout.rest_columns == ()
    assert episodes.layout.state_dim == 29
    env = make_env(episodes.info)
    observation, _ = env.reset(seed=0)
    state, goal = episodes.layout.split(observation)
    np.testing.assert_array_equal(state, episodes.states[0])
    np.testing.assert_array_equal(state[:2], observation["achieved_goal"].astype(np.float32))
    assert episodes.goals is not None
    np.testing.assert_array_equal(goal, episodes.goals[0])
    env.close()


def spaces_dataset(
    observation: spaces.Space, observations: Any, evaluation: EnvSpec | None = None
) -> Episodes:
    """Three steps without an environment."""
    buffer = EpisodeBuffer(
        observations=observations,
        actions=np.zeros((3, 2)),
        rewards=np.zeros(3),
        terminations=np.zeros(3, np.bool_),
        truncations=np.zeros(3, np.bool_),
    )
    action = spaces.Box(-np.inf, np.inf, (2,))
    minari.create_dataset_from_buffers(
        "odd-v0", [buffer], observation_space=observation, action_space=action, eval_env=evaluation
    )
    return load_minari("odd-v0", progress=False)


def test_minari_dicts_with_nested_goals_are_read_without_goal(minari_root: Path) -> None:
    box = spaces.Box(-np.inf, np.inf, (3,))
    goal = spaces.Dict({"kettle": box})
    space = spaces.Dict({"observation": box, "achieved_goal": goal, "desired_goal": goal})
    three = np.ones((4, 3))
    parts = {"observation": three, "achieved_goal": {"kettle": three}}
    episodes = spaces_dataset(space, parts | {"desired_goal": {"kettle": three}}).validate()
    assert episodes.layout.goal_dim == 0
    assert episodes.layout.dict_keys == ("observation",)
    assert episodes.info.env_id is None
    assert episodes.info.action_low == (-1.0, -1.0)


def test_minari_spaces_that_are_no_vectors_are_named(minari_root: Path) -> None:
    with pytest.raises(DiffplanError, match=r"observations of type Discrete\(3\)"):
        spaces_dataset(spaces.Discrete(3), np.zeros(4, np.int64))


def test_minari_uses_the_evaluation_environment(minari_root: Path) -> None:
    evaluation = copy.deepcopy(gym.spec("PointMaze_UMaze-v3"))
    evaluation.max_episode_steps = 77
    evaluation.kwargs = {**evaluation.kwargs, "reset_target": False}
    box = spaces.Box(-np.inf, np.inf, (3,))
    info = spaces_dataset(box, np.zeros((4, 3)), evaluation).info
    assert info.env_id == "PointMaze_UMaze-v3"
    assert info.env_kwargs["reset_target"] is False
    env = make_env(info)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 77
    env.close()


def test_minari_damaged_files_are_named(minari_root: Path) -> None:
    write_minari("hopper/random-v0", "Hopper-v5", [3])
    (minari_root / "hopper/random-v0/data/main_data.hdf5").write_text("not any more")
    with pytest.raises(DiffplanError, match="hopper/random-v0 cannot be read"):
        load_minari("hopper/random-v0", progress=False)


# --- D4RL layout ----------------------------------------------------------------------------


def d4rl_arrays(steps: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Hopper-shaped arrays in D4RL's types, ends at steps 3 (terminal) and 8 (timeout)."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(steps + 1, 11))
    terminals, timeouts = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
    terminals[3] = timeouts[8] = True
    return {
        "observations": observations[:-1],
        "next_observations": observations[1:] + np.isin(np.arange(steps), (3, 8))[:, None],
        "actions": rng.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip" if array.ndim else None)
        file.attrs.update(attributes)
    return path


def test_d4rl_with_next_observations(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", arrays)
    episodes = load_d4rl(path).validate()
    assert episodes.lengths.tolist() == [4, 5, 3]
    assert np.diff(episodes.state_starts).tolist() == [5, 6, 4]
    for e in range(3):
        first, last = episodes.step_starts[e], episodes.step_starts[e + 1]
        start = episodes.state_starts[e]
        expected = np.concatenate(
            [arrays["observations"][first:last], arrays["next_observations"][last - 1 : last]]
        )
        states = episodes.states[start : start + len(expected)]
        np.testing.assert_array_equal(states, expected.astype(np.float32))
    assert np.flatnonzero(episodes.terminations).tolist() == [3]
    assert np.flatnonzero(episodes.truncations).tolist() == [8, 11]
    assert episodes.info.details["unfinished_last_episode"] is True
    assert episodes.info.env_id == "Hopper-v5"
    assert episodes.returns.tolist() == [6.0, 30.0, 30.0]


def test_d4rl_without_next_observations_and_with_odd_shapes(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    del arrays["next_observations"]
    arrays["rewards"] = arrays["rewards"][:, None].astype(np.float64)
    arrays["terminals"] = arrays["terminals"].astype(np.float32)
    arrays["timeouts"][3] = True  # a terminal step at the time limit is a termination
    episodes = load_d4rl(write_hdf5(tmp_path / "x.hdf5", arrays, env_id="Hopper-v5")).validate()
    assert np.diff(episodes.state_starts).tolist() == [4, 5, 3]
    assert np.flatnonzero(episodes.terminations).tolist() == [3]
    assert np.flatnonzero(episodes.truncations).tolist() == [8, 11]
    assert episodes.rewards.shape == (12,)
    assert episodes.info.env_id == "Hopper-v5"


def test_d4rl_without_timeouts_is_cut_at_the_time_limit(tmp_path: Path) -> None:
    arrays = d4rl_arrays(2_310)
    del arrays["timeouts"]
    arrays["terminals"][:] = False
    arrays["terminals"][[299, 1_299]] = True
    path = write_hdf5(tmp_path / "hopper_medium-v0.hdf5", arrays)
    episodes = load_d4rl(path).validate()
    assert episodes.lengths.tolist() == [300, 1_000, 1_000, 10]
    assert np.flatnonzero(episodes.terminations).tolist() == [299, 1_299]
    assert np.flatnonzero(episodes.truncations).tolist() == [2_299, 2_309]
    nameless = write_hdf5(tmp_path / "mystery.hdf5", arrays | {"terminals": np.zeros(2_310)})
    with pytest.raises(DiffplanError, match="name the environment whose time limit applies"):
        load_d4rl(nameless)
    assert load_d4rl(nameless, "Hopper-v5").lengths.tolist() == [1_000, 1_000, 310]


def test_d4rl_maze_goals(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    arrays["observations"] = arrays["observations"][:, :4]
    del arrays["next_observations"]
    arrays["infos/goal"] = np.repeat([[1.0, 2.0], [3.0, 4.0]], 6, axis=0)
    episodes = load_d4rl(write_hdf5(tmp_path / "maze2d-umaze-sparse-v1.hdf5", arrays)).validate()
    assert episodes.layout.goal_columns == (0, 1)
    assert episodes.layout.rest_columns == (2, 3)
    assert episodes.goals is not None
    assert episodes.goals[0].tolist() == [1.0, 2.0]
    assert episodes.info.env_id is None


@pytest.mark.parametrize(
    ("name", "width", "env_id"),
    [
        ("halfcheetah_medium-v2", 17, "HalfCheetah-v5"),
        ("walker2d_expert-v2", 17, "Walker2d-v5"),
        ("ant_medium-v2", 27, "Ant-v4"),
        ("ant_medium-v2", 111, None),
        ("door-human-v1", 39, "AdroitHandDoor-v1"),
        ("kitchen_microwave_kettle_light_slider-v0", 60, None),
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed", 29, None),
    ],
)
def test_d4rl_environments_are_guessed_where_observations_agree(
    tmp_path: Path, name: str, width: int, env_id: str | None
) -> None:
    arrays = d4rl_arrays()
    arrays["observations"] = np.zeros((12, width))
    del arrays["next_observations"]
    episodes = load_d4rl(write_hdf5(tmp_path / f"{name}.hdf5", arrays))
    assert episodes.info.env_id == env_id
    if env_id is not None:
        env = make_env(episodes.info)
        assert env.observation_space.shape == (width,)
        env.close()


def test_d4rl_pen_stops_where_d4rl_stops(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    arrays["observations"] = np.zeros((12, 45))
    del arrays["next_observations"]
    path = write_hdf5(tmp_path / "mine.hdf5", arrays, env_id="AdroitHandPen-v1", name="pen-expert")
    assert load_d4rl(path).info.env_kwargs == {"max_episode_steps": 100}


def damaged_files(folder: Path) -> Iterator[tuple[str, Path, str]]:
    text = folder / "text.hdf5"
    text.write_text("hello")
    yield "text", text, "is no readable HDF5 file"
    whole = write_hdf5(folder / "whole.hdf5", d4rl_arrays(2_000))
    cut = folder / "cut.hdf5"
    cut.write_bytes(whole.read_bytes()[:20_000])
    yield "truncated", cut, "is no readable HDF5 file"
    arrays = d4rl_arrays()
    other = write_hdf5(folder / "other.hdf5", {"episode_0": arrays["actions"]})
    yield "layout", other, "observations, actions, rewards, terminals missing; it holds episode_0"
    short = arrays | {"actions": arrays["actions"][:5]}
    yield "shape", write_hdf5(folder / "short.hdf5", short), r"actions has shape \(5, 3\)"
    empty = {key: array[:0] for key, array in arrays.items()}
    yield "empty", write_hdf5(folder / "empty.hdf5", empty), "holds no steps"
    scalar = arrays | {"rewards": np.array(1.0)}
    yield "scalar", write_hdf5(folder / "scalar.hdf5", scalar), "holds no steps"


def test_d4rl_bad_files_are_named(tmp_path: Path) -> None:
    for kind, path, message in damaged_files(tmp_path):
        with pytest.raises(DiffplanError, match=message) as caught:
            load_d4rl(path)
        assert "\n" not in str(caught.value), kind
        assert str(path) in str(caught.value), kind


# --- Archives -------------------------------------------------------------------------------


def npz_arrays() -> dict[str, np.ndarray]:
    arrays = d4rl_arrays()
    arrays["terminations"], arrays["truncations"] = arrays.pop("terminals"), arrays.pop("timeouts")
    return arrays


def test_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **npz_arrays())
    episodes = load_arrays(tmp_path / "a.npz").validate()
    assert episodes.lengths.tolist() == [4, 5, 3]
    assert np.diff(episodes.state_starts).tolist() == [5, 6, 4]
    assert episodes.info.env_id is None
    assert episodes.info.action_high == (1.0, 1.0, 1.0)
    assert load_arrays(tmp_path / "a.npz", "Hopper-v5").info.env_id == "Hopper-v5"


def test_archives_with_goals(tmp_path: Path) -> None:
    goals = np.arange(24.0).reshape(12, 2)
    np.savez(tmp_path / "a.npz", goals=goals, goal_columns=[4, 5], **npz_arrays())
    episodes = load_arrays(tmp_path / "a.npz").validate()
    assert episodes.layout.goal_columns == (4, 5)
    assert episodes.goals is not None
    assert episodes.goals[:6, 0].tolist() == [0, 2, 4, 6, 6, 8]


def test_archives_may_go_beyond_one(tmp_path: Path) -> None:
    arrays = npz_arrays()
    arrays["actions"][0] = 3.0
    np.savez(tmp_path / "a.npz", **arrays)
    info = load_arrays(tmp_path / "a.npz").validate().info
    assert info.action_high == (3.0, 3.0, 3.0)
    assert info.action_low == (-1.0, -1.0, -1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "actions missing; it holds"),
        ({"rewards": np.zeros((12, 2))}, r"rewards has shape \(12, 2\), expected \(12,\)"),
        ({"observations": np.zeros(12)}, r"observations has shape \(12,\), expected \(12, \*\)"),
        ({"actions": np.array(["a"] * 12)}, "expected numbers"),
        ({"goals": np.zeros((12, 2)), "goal_columns": np.array([11, 12])}, "column 11 is outside"),
        ({"goals": np.zeros((12, 2))}, "goals are given but not goal_columns: "),
        ({"goal_columns": np.array([1, 2])}, "goal_columns are given but not goals: "),
        ({"observations": np.zeros((12, 0))}, r"observations has shape \(12, 0\)"),
        ({"rewards": np.array([{}] * 12, object)}, "of numbers: it holds Python objects$"),
    ],
)
def test_bad_archives_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {key: array for key, array in (npz_arrays() | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DiffplanError, match=message):
        load_arrays(tmp_path / "a.npz")


def test_text_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(DiffplanError, match=r"is not a \.npz archive") as caught:
        load_arrays(tmp_path / "a.npz")
    assert "pickle" not in str(caught.value)


def test_huge_bounds_are_none() -> None:
    largest = float(np.finfo(np.float32).max)
    space = gym.spaces.Box(np.float32([-largest, -2]), np.float32([largest, np.inf]))
    assert action_bounds(space, np.array([[3.0, 0.0]])) == ((-1.0, -2.0), (3.0, 1.0))


# --- The flat copies ------------------------------------------------------------------------


def test_copies_are_used_until_the_data_change(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    first = load_d4rl(path)
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", None)  # reading the file again would fail
        again = load_d4rl(path)
    np.testing.assert_array_equal(first.states, again.states)
    assert not again.states.flags.owndata
    write_hdf5(path, d4rl_arrays(20, seed=1))
    assert load_d4rl(path).num_steps == 20
    assert len(list(cache_folder.iterdir())) == 1


def test_damaged_copies_are_made_again(tmp_path: Path, cache_folder: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    load_d4rl(path)
    (next(cache_folder.iterdir()) / "actions.npy").write_bytes(b"x")
    assert load_d4rl(path).validate().num_steps == 12


def test_a_copy_that_another_process_made_first_is_used(tmp_path: Path, cache_folder: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    reference = load_d4rl(path)
    folder = next(cache_folder.iterdir())
    cache._save_once(reference, folder)
    assert [path.name for path in cache_folder.iterdir()] == [folder.name]


def test_unwritable_caches_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "file"))
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    with pytest.raises(DiffplanError, match="DIFFPLAN_CACHE"):
        load_d4rl(path)


def test_environments_that_cannot_be_made_are_named() -> None:
    info = DatasetInfo("mine", "arrays", None, {}, (-1.0,), (1.0,), {})
    with pytest.raises(DiffplanError, match="name one with --env"):
        make_env(info)
    unknown = DatasetInfo("mine", "arrays", "Hoper-v5", {}, (-1.0,), (1.0,), {})
    with pytest.raises(DiffplanError, match="did you mean Hopper-v5"):
        make_env(unknown)
    wrong = DatasetInfo("mine", "arrays", "Hopper-v5", {"wings": 2}, (-1.0,), (1.0,), {})
    with pytest.raises(DiffplanError, match="Hopper-v5 cannot be made"):
        make_env(wrong)
