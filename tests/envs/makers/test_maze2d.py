"""maze2d in D4RL's frame: layouts, dynamics, rewards; its controllers; its data."""

from functools import partial
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffplan.data.info import DatasetInfo
from diffplan.envs.datasets import load_dataset, made_d4rl
from diffplan.envs.formats import d4rl_write
from diffplan.envs.makers import maze2d_data
from diffplan.envs.makers.maze2d_controllers import Grid, Maze2DController, maze2d_controllers
from diffplan.envs.makers.maze2d_data import make_maze2d, run_maze2d
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.maze2d import LAYOUTS, Maze2D, free_points, goal_point, reward_at
from diffplan.envs.simulators.mazes import maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.cli import main

make_quietly = partial(make_maze2d, progress=False)


def info(maze: str) -> DatasetInfo:
    env_id = f"diffplan/maze2d-{maze}-v1"
    return DatasetInfo(maze, "d4rl", env_id, {}, (-1.0,) * 2, (1.0,) * 2, {})


@pytest.fixture(scope="module")
def run() -> maze2d_data.Maze2DRun:
    return run_maze2d("umaze", 20_000, 5, progress=False)


# --- The environment ------------------------------------------------------------------------


def test_it_is_a_gymnasium_environment() -> None:
    check_env(Maze2D("medium"), skip_render_check=True)
    with pytest.raises(DiffplanError, match=r"unknown maze 'u'; maze2d has open, umaze"):
        Maze2D("u")


def test_goals_of_evaluation() -> None:
    goals = {maze: goal_point(maze) for maze in LAYOUTS}
    assert goals == {"open": (2, 3), "umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}


def test_starts_are_uniform_over_the_free_cells() -> None:
    env = Maze2D("umaze")
    starts = np.array([env.reset(seed=seed)[0]["observation"] for seed in range(700)])
    cells, counts = np.unique(np.round(starts[:, :2]), axis=0, return_counts=True)
    assert {tuple(cell) for cell in cells} == set(free_points("umaze"))
    assert counts.min() > 60
    offsets = starts[:, :2] - np.round(starts[:, :2])
    assert 0.095 < np.abs(offsets).max() <= 0.1
    assert starts[:, 2:].std() == pytest.approx(0.1, rel=0.1)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(again["observation"], starts[3])
    assert again["desired_goal"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("action", "rests_at"), [((-1, 0), (0.4, 1.0)), ((0, -1), (1.0, 0.4)), ((1, 0), (1.2, 1.0))]
)
def test_walls_are_where_d4rl_has_them(
    action: tuple[int, int], rests_at: tuple[float, float]
) -> None:
    """The free part of cell 1 is 0.4 to 1.2 in D4RL's files; (2, 1) is a wall of umaze."""
    env = Maze2D("umaze")
    env.reset(seed=0)
    env.set_state(np.array([1.0, 1.0, 0.0, 0.0]))
    for _ in range(100):
        observation, *_ = env.step(np.array(action, np.float32))
    np.testing.assert_allclose(observation["achieved_goal"], rests_at, atol=0.02)


def test_the_largest_speed_is_that_of_d4rl_files() -> None:
    """5.2262554 in the statistics of the published files: clip to 5, one step of force, damping."""
    env = Maze2D("open")
    env.reset(seed=0)
    env.set_state(np.array([1.0, 1.0, 0.0, 0.0]))
    speeds = [env.step(np.array([0.0, 1.0]))[0]["observation"][3] for _ in range(80)]
    assert np.float32(max(speeds)) == np.float32(5.2262554)


def test_rewards_are_for_the_position_after_the_step() -> None:
    goal = np.array([1.0, 1.0])
    for dense, expected in ((False, 1.0), (True, np.exp(-0.5))):
        assert reward_at(np.array([1.0, 1.5]), goal, dense) == pytest.approx(expected)
    assert reward_at(np.array([[1.0, 1.501], [3.0, 1.0]]), goal, dense=False).tolist() == [0, 0]
    for dense in (False, True):
        env = Maze2D("umaze", dense)
        env.reset(seed=0)
        env.set_state(np.array([1.0, 1.52, 0.0, -4.0]))
        observation, reward, terminated, truncated, details = env.step(np.zeros(2))
        assert reward == reward_at(observation["achieved_goal"], env.goal, dense)
        assert reward > 0.5
        assert details["success"]
        assert not (terminated or truncated)


def test_the_walls_drawn_are_the_walls_simulated() -> None:
    for maze in LAYOUTS:
        version = 0 if maze == "open" else 1
        drawn = maze_of(f"diffplan/maze2d-{maze}-v{version}", {})
        assert drawn is not None
        model = Maze2D(maze).model
        boxes = model.geom_pos[model.geom_bodyid == 0][:, :2] - 1.2  # where positions count from
        cells = [(i, j) for i in range(len(drawn.rows)) for j in range(len(drawn.rows[0]))]
        walls = np.array([drawn.centre(cell) for cell in cells if not drawn.is_free(cell)])
        assert sorted(np.round(boxes, 6).tolist()) == sorted(np.round(walls, 6).tolist())
        for point in free_points(maze):
            middle = drawn.centre(drawn.cell(np.array(point)))
            np.testing.assert_allclose(middle, np.array(point) - 0.2)


# --- The controllers ------------------------------------------------------------------------


def test_routes_are_shortest_and_ties_go_to_the_first_move() -> None:
    grid, rng = Grid("open"), np.random.default_rng(0)
    route = grid.route(np.array([1.0, 1.0]), (3, 3), rng)
    assert [(round(x + 0.1), round(y + 0.1)) for x, y in route.waypoints] == [
        (1, 2),
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert route.waypoints[-1] == (3.0, 3.0)
    corners = np.array([(1, 2), (1, 3), (2, 3)]) - np.array(route.waypoints[:-1])
    assert corners.min() > 0.0
    assert corners.max() < 0.2
    assert grid.route(np.array([3.0, 3.0]), (3, 3), rng).waypoints == ((3.0, 3.0),)
    assert Grid("umaze").cell_of(np.array([1.45, 1.0])) == (1, 1)
    assert Grid("umaze").cell_of(np.array([2.9, 2.45])) == (3, 2)  # D4RL's rounding: a wall


@pytest.mark.parametrize(
    ("replan", "expected", "spread"), [(True, 223.6, 54.0), (False, 170.8, 130.0)]
)
def test_controllers_reach_their_known_returns(
    replan: bool, expected: float, spread: float
) -> None:
    """Means and standard deviations of 2,000 episodes; D4RL's maximum is 161.86 of 100."""
    episodes = 24
    result = rollout(
        Maze2DController("umaze", replan),
        evaluation_env_factory(info("umaze")),
        episodes=episodes,
        num_envs=1,
        seed=0,
        progress=False,
    )
    assert abs(result.returns.mean() - expected) < 3.0 * spread / np.sqrt(episodes)
    assert result.success is not None
    assert result.success.all() == replan
    assert (result.lengths == 300).all()


def test_replanning_does_not_depend_on_the_number_of_rows() -> None:
    factory = evaluation_env_factory(info("large"), max_episode_steps=80)
    runs = [
        rollout(
            Maze2DController("large", seed=1),
            factory,
            episodes=5,
            num_envs=m,
            seed=3,
            progress=False,
            record=5,
        )
        for m in (1, 3)
    ]
    for alone, together in zip(runs[0].traces, runs[1].traces, strict=True):
        np.testing.assert_array_equal(alone.actions, together.actions)


def test_controllers_of_a_dataset() -> None:
    found = maze2d_controllers(info("medium"))
    assert {key: found[key].replan for key in found} == {
        "controller": True,
        "reference_controller": False,
    }
    assert maze2d_controllers(DatasetInfo("x", "d4rl", None, {}, (), (), {})) == {}
    assert maze2d_controllers(DatasetInfo("x", "d4rl", "Hopper-v5", {}, (), (), {})) == {}


# --- The data -------------------------------------------------------------------------------


def test_the_run_is_one_trajectory(run: maze2d_data.Maze2DRun) -> None:
    """Put the ball at each observation, act: the next row comes out."""
    env = Maze2D("umaze")
    env.reset(seed=0)
    for t in range(0, 19_999, 97):
        env.set_state(run.states[t])
        observation, *_ = env.step(run.actions[t])
        np.testing.assert_allclose(observation["observation"], run.states[t + 1], atol=1e-4)


def test_legs_end_at_goals_and_goals_change_there_only(run: maze2d_data.Maze2DRun) -> None:
    changes = np.flatnonzero((run.goals[1:] != run.goals[:-1]).any(axis=1))
    np.testing.assert_array_equal(changes, np.flatnonzero(run.ends)[: len(changes)])
    assert len(changes) > 200
    targets = np.round(run.goals[run.ends])
    assert np.linalg.norm(run.states[run.ends, :2] - targets, axis=1).max() < 0.1
    assert np.abs(run.goals - np.round(run.goals)).max() <= 0.1
    assert np.abs(run.actions).max() == 1.0


def test_runs_repeat_and_short_ones_begin_long_ones(run: maze2d_data.Maze2DRun) -> None:
    short = run_maze2d("umaze", 2_000, 5, progress=False)
    for name in ("states", "actions", "goals", "ends"):
        np.testing.assert_array_equal(getattr(short, name), getattr(run, name)[:2_000])
    other = run_maze2d("umaze", 100, 6, progress=False)
    assert (other.states != run.states[:100]).any()


@pytest.mark.parametrize("name", ["maze2d-umaze", "maze2d-umaze-dense"])
def test_what_is_made_loads_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert main(["datasets", "make", name, "--env-steps", "900", "--seed", "2"]) == 0
    path = made_d4rl(name)
    assert path is not None
    with h5py.File(path) as file:
        xy, rewards = file["observations"][:, :2], file["rewards"][:]
        assert file["infos/goal"].shape == (900, 2)
        assert not file["terminals"][:].any()
        assert file["timeouts"][:].any()
    expected = reward_at(xy, np.array([1.0, 1.0]), name.endswith("dense"))
    np.testing.assert_allclose(rewards, expected, atol=1e-6)
    episodes = load_dataset(name, progress=False)
    assert episodes.info.env_id == f"diffplan/{name}-v1"
    assert episodes.info.details["data_source"] != "D4RL file"
    assert "environment_differences" not in episodes.info.details
    np.testing.assert_allclose(episodes.rewards, rewards[1:])


def test_a_file_is_kept_and_another_one_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.hdf5"
    assert make_quietly("maze2d-open", 50, 0, path) == path
    written = path.stat().st_mtime_ns
    make_quietly("maze2d-open", 50, 0, path)
    assert path.stat().st_mtime_ns == written
    for name, steps, seed in (
        ("maze2d-open", 51, 0),
        ("maze2d-open", 50, 1),
        ("maze2d-umaze", 50, 0),
    ):
        with pytest.raises(DiffplanError, match=r"steps 50, seed 0.* give --overwrite"):
            make_quietly(name, steps, seed, path)
    make_quietly("maze2d-open", 51, 0, path, overwrite=True)
    with h5py.File(path) as file:
        assert file.attrs["steps"] == 51
        assert file.attrs["name"] == "maze2d-open-v0"
    path.write_text("no hdf5")
    with pytest.raises(DiffplanError, match="exists with name None"):
        make_quietly("maze2d-open", 51, 0, path)


def test_an_interrupted_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(d4rl_write.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        make_quietly("maze2d-open", 20, 0, tmp_path / "x.hdf5")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DiffplanError, match="unknown maze2d dataset 'maze2d-u'"):
        make_quietly("maze2d-u", 50, 0, tmp_path / "x.hdf5")
    with pytest.raises(DiffplanError, match="expected steps >= 2 and seed >= 0"):
        make_quietly("maze2d-open", 1, 0, tmp_path / "x.hdf5")
    arguments = ["datasets", "make", "maze2d-umaze", "--path-rule", "depth-first"]
    assert main(arguments) == 2
    assert "maze2d's controller takes shortest paths" in capsys.readouterr().err


def test_the_published_time_limits() -> None:
    limits = {"open-v0": 150, "umaze-v1": 300, "medium-v1": 600, "large-v1": 800}
    for name, limit in limits.items():
        assert gym.spec(f"diffplan/maze2d-{name}").max_episode_steps == limit
