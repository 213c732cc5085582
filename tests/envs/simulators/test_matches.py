"""Every D4RL name leads to an environment that fits its files: made, reset, stepped, split."""

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v4 import AntEnv

from diffplan.data.episodes import Episodes
from diffplan.envs.datasets import load_dataset
from diffplan.envs.formats.d4rl_catalogue import CATALOGUE, D4RLDataset
from diffplan.envs.rollouts.references import REFERENCE_SCORES, reference_key
from diffplan.envs.simulators.compatibility import check_spaces
from diffplan.envs.simulators.environments import make_env
from diffplan.envs.simulators.matches import match_environment
from diffplan.envs.simulators.mazes import maze_of

STEPS = 12


def write_tiny_file(dataset: D4RLDataset) -> Path:
    """A file of the dataset's layout and name, three episodes long, where D4RL would look."""
    rng = np.random.default_rng(0)
    ends = np.isin(np.arange(STEPS), [3, 7, 11])
    arrays: dict[str, np.ndarray] = {
        "observations": rng.normal(size=(STEPS, dataset.observation_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (STEPS, dataset.action_dim)).astype(np.float32),
        "rewards": np.zeros(STEPS, np.float32),
        "terminals": ends & (not dataset.has_timeouts),
    }
    if dataset.has_timeouts:
        arrays["timeouts"] = ends
    if dataset.domain in ("maze2d", "antmaze"):
        arrays["infos/goal"] = np.repeat(rng.normal(size=(3, 2)), 4, axis=0).astype(np.float32)
    dataset.path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(dataset.path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return dataset.path


@pytest.fixture(scope="module")
def simulations() -> Iterator[dict[str, gym.Env]]:
    """Environments by id and keyword arguments: several datasets share one."""
    made: dict[str, gym.Env] = {}
    yield made
    for env in made.values():
        env.close()


def simulate(simulations: dict[str, gym.Env], episodes: Episodes) -> gym.Env:
    key = f"{episodes.info.env_id} {sorted(episodes.info.env_kwargs.items())}"
    if key not in simulations:
        simulations[key] = make_env(episodes.info)
    return simulations[key]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_name_has_an_environment_that_fits(
    name: str,
    simulations: dict[str, gym.Env],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    dataset = CATALOGUE[name]
    write_tiny_file(dataset)
    episodes = load_dataset(name, progress=False)
    layout, info = episodes.layout, episodes.info
    match = match_environment(name, dataset.observation_dim)
    assert match is not None
    assert (info.env_id, info.env_kwargs) == (match.env_id, match.env_kwargs)
    assert info.details["d4rl_name"] == name
    assert info.details.get("environment_differences", "") == match.differences
    assert "\n" not in match.differences
    assert (layout.goal_dim > 0) == (dataset.domain in ("maze2d", "antmaze"))

    env = simulate(simulations, episodes)
    check_spaces(layout, info, env.observation_space, env.action_space)
    assert env.spec is not None
    assert env.spec.max_episode_steps == dataset.time_limit
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        state, goal = layout.split(observation)
        assert state.shape == episodes.states.shape[1:] == (dataset.observation_dim,)
        assert (goal is None) == (episodes.goals is None)
        assert env.observation_space.contains(observation)
        assert env.action_space.shape == episodes.actions.shape[1:]
        observation, reward, terminated, truncated, _ = env.step(np.zeros(dataset.action_dim))
        assert isinstance(float(reward), float)
        assert not (terminated or truncated)

    key = reference_key(info)
    assert key is not None
    assert name.startswith(key.removesuffix("-dense"))
    assert (maze_of(info.env_id, info.env_kwargs) is not None) == (layout.goal_dim > 0)
    assert REFERENCE_SCORES[key].maximum > REFERENCE_SCORES[key].minimum


def test_what_differs_is_said() -> None:
    def differences(name: str, width: int) -> str:
        match = match_environment(name, width)
        assert match is not None
        return match.differences

    assert "does not end" in differences("pen-human-v1", 45)
    for name, width in (("door-human-v1", 39), ("hammer-expert-v1", 46), ("relocate-human-v1", 39)):
        assert "opposite sign" in differences(name, width)
    assert "not checked" in differences("kitchen-mixed-v0", 60)
    assert "not checked" in differences("antmaze-large-play-v2", 29)
    assert differences("maze2d-umaze-v1", 4) == differences("hopper-medium-v2", 11) == ""


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("hopper-medium-v2", 12),
        ("maze2d-umaze-v0", 4),
        ("maze2d-huge", 4),
        ("antmaze-umaze-v2", 27),
        ("kitchen-complete-v0", 59),
        ("mine", 11),
        ("", 11),
    ],
)
def test_other_names_and_widths_have_none(name: str, width: int) -> None:
    assert match_environment(name, width) is None


def test_maze2d_without_its_version() -> None:
    match = match_environment("maze2d-large-dense", 4)
    assert match is not None
    assert match.env_id == "diffplan/maze2d-large-dense-v1"


def test_ant_has_d4rl_columns_and_rewards() -> None:
    ours, theirs = gym.make("diffplan/ant-v2"), AntEnv()
    seen, expected = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_array_equal(seen[:27], expected)
        assert not seen[27:].any()
        action = rng.uniform(-1, 1, 8)
        seen, reward, *_ = ours.step(action)
        expected, other, *_ = theirs.step(action)
        assert reward == other


def test_locomotion_rewards_the_step_of_a_fall_as_d4rl_does() -> None:
    """D4RL's Hopper gets 1 for being alive at every step, today's version not at the last."""
    returns = []
    for env_id in ("diffplan/hopper-v2", "Hopper-v5"):
        env = gym.make(env_id)
        env.reset(seed=1)
        total, terminated = 0.0, False
        while not terminated:
            _, reward, terminated, _, _ = env.step(np.full(3, 0.7))
            total += float(reward)
        returns.append(total)
    assert returns[0] - returns[1] == pytest.approx(1.0)


def test_walker_has_d4rl_feet() -> None:
    model = gym.make("diffplan/walker2d-v2").unwrapped.model  # type: ignore[attr-defined]
    right, left = (model.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom"))
    assert (right, left) == (0.9, 1.9)
