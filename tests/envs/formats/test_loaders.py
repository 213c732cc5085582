"""Loaders of Minari datasets of any kind and of .npz archives; traps and bad files."""

import copy
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo
from diffplan.envs.formats.minari import load_minari
from diffplan.envs.formats.npz import load_npz
from diffplan.envs.simulators.bounds import action_bounds
from diffplan.envs.simulators.environments import make_env
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


def goals_dataset(*achieved: list[float]) -> Episodes:
    """Episodes of one step whose observation is (5, 6) throughout."""
    box = spaces.Box(-np.inf, np.inf, (2,))
    space = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), box))
    buffers = [
        EpisodeBuffer(
            observations={
                "observation": np.tile([5.0, 6.0], (2, 1)),
                "achieved_goal": np.tile(goal, (2, 1)),
                "desired_goal": np.ones((2, 2)),
            },
            actions=np.zeros((1, 2)),
            rewards=np.ones(1),
            terminations=np.zeros(1, np.bool_),
            truncations=np.ones(1, np.bool_),
        )
        for goal in achieved
    ]
    minari.create_dataset_from_buffers(
        "goals-v0", buffers, observation_space=space, action_space=box
    )
    return load_minari("goals-v0", progress=False).validate()


def test_minari_goals_are_looked_for_in_every_episode(minari_root: Path) -> None:
    """Only the last episode tells that the goal is not the observation's second column."""
    layout = goals_dataset([6.0, 5.0], [6.0, 5.0]).layout
    assert layout.goal_columns == (1, 0) and layout.dict_keys == ("observation",)
    shutil.rmtree(minari_root / "goals-v0")
    episodes = goals_dataset([6.0, 5.0], [6.0, 7.0])
    assert episodes.layout.dict_keys == ("achieved_goal", "observation")
    expected = [[6, 5, 5, 6]] * 2 + [[6, 7, 5, 6]] * 2
    np.testing.assert_array_equal(episodes.states, np.array(expected))
    assert episodes.goals is not None and episodes.goals.shape == (4, 2)


def test_minari_is_converted_an_episode_at_a_time(minari_root: Path) -> None:
    """40 MB of float64 go through less than a tenth of that; a changed dataset is read again."""
    box = spaces.Box(-np.inf, np.inf, (100,))
    ends = np.arange(500) == 499
    buffers = [
        EpisodeBuffer(
            observations=np.full((501, 100), float(e)),
            actions=np.full((500, 2), float(e)),
            rewards=np.zeros(500),
            terminations=ends & False,
            truncations=ends,
        )
        for e in range(100)
    ]
    minari.create_dataset_from_buffers(
        "large-v0", buffers[:-1], observation_space=box, action_space=spaces.Box(-1, 99, (2,))
    )
    tracemalloc.start()
    try:
        episodes = load_minari("large-v0", progress=False)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
    assert episodes.states.shape == (99 * 501, 100) and not episodes.states.flags.owndata
    assert episodes.states[-1, 0] == 98 and episodes.info.action_high == (99.0, 99.0)
    minari.load_dataset("large-v0").update_dataset_from_buffer(buffers[-1:])
    assert load_minari("large-v0", progress=False).num_episodes == 100


def test_minari_damaged_files_are_named(minari_root: Path) -> None:
    write_minari("hopper/random-v0", "Hopper-v5", [3])
    (minari_root / "hopper/random-v0/data/main_data.hdf5").write_text("not any more")
    with pytest.raises(DiffplanError, match="hopper/random-v0 cannot be read"):
        load_minari("hopper/random-v0", progress=False)


# --- Archives -------------------------------------------------------------------------------


def npz_arrays() -> dict[str, np.ndarray]:
    """Hopper-shaped arrays: terminated at step 3, truncated at step 8, unfinished at step 11."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(13, 11))
    return {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": rng.uniform(-1, 1, size=(12, 3)).astype(np.float32),
        "rewards": np.arange(12, dtype=np.float32),
        "terminations": np.arange(12) == 3,
        "truncations": np.arange(12) == 8,
    }


def test_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **npz_arrays())
    episodes = load_npz(tmp_path / "a.npz").validate()
    assert episodes.lengths.tolist() == [4, 5, 3]
    assert np.diff(episodes.state_starts).tolist() == [5, 6, 4]
    assert episodes.info.env_id is None
    assert episodes.info.action_high == (1.0, 1.0, 1.0)
    assert load_npz(tmp_path / "a.npz", "Hopper-v5").info.env_id == "Hopper-v5"


def test_archives_with_goals(tmp_path: Path) -> None:
    goals = np.arange(24.0).reshape(12, 2)
    np.savez(tmp_path / "a.npz", goals=goals, goal_columns=[4, 5], **npz_arrays())
    episodes = load_npz(tmp_path / "a.npz").validate()
    assert episodes.layout.goal_columns == (4, 5)
    assert episodes.goals is not None
    assert episodes.goals[:6, 0].tolist() == [0, 2, 4, 6, 6, 8]


def test_archives_may_go_beyond_one(tmp_path: Path) -> None:
    arrays = npz_arrays()
    arrays["actions"][0] = 3.0
    np.savez(tmp_path / "a.npz", **arrays)
    info = load_npz(tmp_path / "a.npz").validate().info
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
        ({"goals": np.zeros((12, 2))}, "goals are given but not goal_columns, the 2 columns"),
        ({"observations": np.zeros((12, 0))}, r"observations has shape \(12, 0\)"),
        ({"rewards": np.array([{}] * 12, object)}, "of numbers: it holds Python objects$"),
    ],
)
def test_bad_archives_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {key: array for key, array in (npz_arrays() | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DiffplanError, match=message):
        load_npz(tmp_path / "a.npz")


def test_text_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(DiffplanError, match=r"is not a \.npz archive") as caught:
        load_npz(tmp_path / "a.npz")
    assert "pickle" not in str(caught.value)


def test_huge_bounds_are_none() -> None:
    largest = float(np.finfo(np.float32).max)
    space = gym.spaces.Box(np.float32([-largest, -2]), np.float32([largest, np.inf]))
    assert action_bounds(space, np.array([[3.0, 0.0]])) == ((-1.0, -2.0), (3.0, 1.0))


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
