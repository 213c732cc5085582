"""PointMaze data: genuine environment, published procedure, deterministic, atomic, Minari."""

import itertools
import json
import tempfile
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest

from diffplan.data.info import DatasetInfo
from diffplan.envs.formats.minari import load_minari
from diffplan.envs.makers import pointmaze_data as pointmaze
from diffplan.envs.makers.catalogue import POINTMAZES
from diffplan.envs.makers.pointmaze_data import PointMazeRun, make_pointmaze, run_pointmaze
from diffplan.envs.simulators.environments import make_env
from diffplan.envs.simulators.mazes import Maze, grid_path, lay_waypoints
from diffplan.errors import DiffplanError

LOOP = [
    [1, 1, 1, 1, 1],
    [1, 0, 0, 0, 1],
    [1, 0, 1, 0, 1],
    [1, 0, 0, 0, 1],
    [1, 1, 1, 1, 1],
]


@pytest.fixture(scope="module")
def umaze() -> PointMazeRun:
    return run_pointmaze(POINTMAZES["pointmaze-umaze"], 20_000, 5, progress=False)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(umaze: PointMazeRun) -> None:
    again = run_pointmaze(POINTMAZES["pointmaze-umaze"], 2_000, 5, progress=False)
    np.testing.assert_array_equal(again.actions, umaze.actions[:2_000])
    np.testing.assert_array_equal(again.states, umaze.states[:2_001])
    other = run_pointmaze(POINTMAZES["pointmaze-umaze"], 100, 6, progress=False)
    assert not np.array_equal(other.states, umaze.states[:101])


def test_steps_replay_in_the_genuine_environment(umaze: PointMazeRun) -> None:
    env = gym.make(POINTMAZES["pointmaze-umaze"], continuing_task=True, reset_target=True)
    env.reset(seed=5)
    for t in range(200):
        observation, _, _, _, info = env.step(umaze.actions[t])
        np.testing.assert_array_equal(observation["observation"], umaze.states[t + 1])
        np.testing.assert_array_equal(observation["desired_goal"], umaze.goals[t])
        assert info["success"] == umaze.success[t]
    env.close()


def test_actions_follow_the_controller_with_its_noise(umaze: PointMazeRun) -> None:
    """Beyond the clip, action + velocity = 10 (waypoint - xy) + 0.5 N(0, 1)."""
    assert np.abs(umaze.actions).max() == 1.0
    # Far from a waypoint 10 (waypoint - xy) drowns the noise and the clip follows it: about 0.56
    # of the entries are at a bound, against 0.34 if the clip came before the noise.
    assert (np.abs(umaze.actions) == 1.0).mean() > 0.5
    # On the last stretch the waypoint is the goal itself; look at unclipped actions near it.
    position, velocity = umaze.states[:-1, :2], umaze.states[:-1, 2:]
    near = np.linalg.norm(umaze.goals - position, axis=1) < 0.5
    inside = near & (np.abs(umaze.actions) < 1).all(axis=1)
    residual = umaze.actions + velocity - 10 * (umaze.goals - position)
    # The clip takes the tails, so the spread is below 0.5, but far from a noiseless zero.
    assert 0.2 < np.median(np.abs(residual[inside])) < 0.6


def test_the_number_of_episodes_is_the_published_one(umaze: PointMazeRun) -> None:
    """13,210 in 1M steps; the length of an episode varies by 0.6 of its mean."""
    expected = 13_210 * len(umaze.actions) / 1e6
    assert abs(umaze.success.sum() - expected) < 3.5 * 0.62 * np.sqrt(expected)


def test_episodes_end_at_success_and_the_ball_stays(umaze: PointMazeRun) -> None:
    distance = np.linalg.norm(umaze.states[1:, :2] - umaze.goals, axis=1)
    np.testing.assert_array_equal(distance <= 0.45, umaze.success)
    for start, end in itertools.pairwise(umaze.episode_starts):
        assert (umaze.goals[start:end] == umaze.goals[start]).all()
    after = np.flatnonzero(umaze.success[:-1]) + 1
    assert (umaze.goals[after] != umaze.goals[after - 1]).any(axis=1).all()


def test_depth_first_paths_are_the_published_ones() -> None:
    """In a loop the stack search goes down first and so takes the long way to the right."""
    maze = Maze.from_map(LOOP)
    short = grid_path(maze, (1, 1), (1, 3), "shortest")
    long = grid_path(maze, (1, 1), (1, 3), "depth-first")
    assert short == [(1, 1), (1, 2), (1, 3)]
    assert long == [(1, 1), (2, 1), (3, 1), (3, 2), (3, 3), (2, 3), (1, 3)]
    assert grid_path(maze, (1, 1), (1, 1), "depth-first") == [(1, 1)]


def test_waypoints_are_cell_centres_less_a_little_and_end_at_the_goal() -> None:
    maze = Maze.from_map(LOOP)
    start, goal = np.array([-1.1, 0.9]), np.array([1.2, 1.1])
    points = lay_waypoints(maze, start, goal, "depth-first", np.random.default_rng(0))
    cells = grid_path(maze, (1, 1), (1, 3), "depth-first")[1:-1]
    offsets = np.array([maze.centre(cell) for cell in cells]) - points[:-1]
    np.testing.assert_array_equal(points[-1], goal)
    assert (offsets[0] == 0).all()
    assert ((offsets[1:] > 0) & (offsets[1:] < 0.2)).all()
    assert lay_waypoints(maze, goal, goal, "shortest", np.random.default_rng(0)).shape == (1, 2)


@pytest.mark.parametrize("name", sorted(POINTMAZES))
def test_geometry_agrees_with_the_environment(name: str) -> None:
    env = gym.make(POINTMAZES[name])
    theirs = env.unwrapped.maze  # type: ignore[attr-defined]
    maze = Maze.from_map(theirs.maze_map)
    for cell in maze.free_cells():
        centre = theirs.cell_rowcol_to_xy(np.array(cell))
        np.testing.assert_allclose(maze.centre(cell), centre)
        for shift in (-0.49, 0.49):
            assert maze.cell(centre + shift) == tuple(theirs.cell_xy_to_rowcol(centre + shift))
    env.close()


@pytest.mark.parametrize(
    ("maze_map", "message"),
    [
        ([[1, 1], [1, 1]], "at least 3 by 3"),
        ([[1, 1, 1], [1, 0, 1], [1, 1]], "rectangle"),
        ([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]], "all around its border"),
        ([[1, 1, 1, 1], [1, 0, "x", 1], [1, 1, 1, 1]], "holds 'x'"),
        ([[1, 1, 1], [1, 0, 1], [1, 1, 1]], "1 goal cells"),
        ([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], "cannot be reached"),
    ],
)
def test_bad_maps_are_refused(maze_map: list[list[int | str]], message: str) -> None:
    with pytest.raises(DiffplanError, match=message):
        Maze.from_map(maze_map)


def test_the_dataset_is_genuine_minari(minari_root: Path) -> None:
    dataset_id = make_pointmaze("pointmaze-umaze", 1_500, 3, progress=False)
    assert dataset_id == "pointmaze/umaze-v0"
    assert list(minari.list_local_datasets()) == [dataset_id]
    dataset = minari.load_dataset(dataset_id)
    assert dataset.total_steps == 1_500
    collected, evaluation = dataset.recover_environment(), dataset.recover_environment(True)
    assert collected.unwrapped.reset_target
    assert not evaluation.unwrapped.reset_target
    assert evaluation.unwrapped.continuing_task
    assert evaluation.spec.max_episode_steps == 300
    run = run_pointmaze("PointMaze_UMaze-v3", 1_500, 3, progress=False)
    assert dataset.total_episodes == len(run.episode_starts) - 1
    first = dataset[0]
    length = len(first.actions)
    assert len(first.observations["observation"]) == length + 1
    assert first.truncations.tolist() == [False] * (length - 1) + [True]
    assert not first.terminations.any()
    assert first.rewards.tolist() == [0.0] * (length - 1) + [1.0]
    np.testing.assert_array_equal(first.observations["observation"], run.states[: length + 1])
    recipe = dataset.storage.metadata["diffplan"]
    assert (recipe["steps"], recipe["seed"], recipe["path_rule"]) == (1_500, 3, "depth-first")
    assert "mujoco" in recipe["versions"]

    episodes = load_minari(dataset_id, progress=False).validate()
    assert (episodes.num_steps, episodes.num_episodes) == (1_500, dataset.total_episodes)
    assert episodes.layout.goal_columns == (0, 1)
    assert episodes.layout.rest_columns == (2, 3)
    assert episodes.goals is not None
    np.testing.assert_array_equal(
        episodes.states[: length + 1], run.states[: length + 1].astype(np.float32)
    )
    np.testing.assert_array_equal(episodes.goals[0], run.goals[0].astype(np.float32))


def test_the_same_data_are_kept_and_others_need_overwrite(minari_root: Path) -> None:
    make_pointmaze("pointmaze-open", 300, 0, progress=False)
    data = minari_root / "pointmaze" / "open-v0" / "data" / "main_data.hdf5"
    written = data.stat().st_mtime_ns
    make_pointmaze("pointmaze-open", 300, 0, progress=False)
    assert data.stat().st_mtime_ns == written
    with pytest.raises(DiffplanError, match=r"300 steps, seed 0.*400 steps, seed 1.*--overwrite"):
        make_pointmaze("pointmaze-open", 400, 1, progress=False)
    assert load_minari("pointmaze/open-v0", progress=False).num_steps == 300
    make_pointmaze("pointmaze-open", 400, 1, overwrite=True, progress=False)
    assert load_minari("pointmaze/open-v0", progress=False).num_steps == 400


@pytest.mark.parametrize("exists", [False, True])
def test_an_interruption_leaves_nothing_behind(
    minari_root: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    if exists:
        make_pointmaze("pointmaze-open", 300, 0, progress=False)
    before = sorted(minari_root.rglob("*"))
    genuine = pointmaze._buffers

    def interrupted(run: PointMazeRun) -> object:
        yield next(genuine(run))
        raise KeyboardInterrupt

    monkeypatch.setattr(pointmaze, "_buffers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_pointmaze("pointmaze-open", 2_000, 1, overwrite=True, progress=False)
    assert sorted(minari_root.rglob("*")) == before
    assert len(minari.list_local_datasets()) == int(exists)


def test_any_map_makes_a_dataset(minari_root: Path) -> None:
    dataset_id = make_pointmaze(
        "loop", 500, 0, maze_map=LOOP, dataset_id="mine/loop-v1", progress=False
    )
    assert dataset_id == "mine/loop-v1"
    info = load_minari(dataset_id, progress=False).info
    assert info.env_kwargs["maze_map"] == LOOP
    assert info.env_kwargs["max_episode_steps"] == 300
    metadata = minari_root / "mine" / "loop-v1" / "data" / "metadata.json"
    assert json.loads(metadata.read_text())["diffplan"]["maze_map"] == LOOP


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pointmaze-huge", {}, "can be made: pointmaze-large, pointmaze-medium"),
        ("pointmaze-open", {"steps": 0}, "expected steps >= 1"),
        ("pointmaze-open", {"dataset_id": "no good!"}, "is no Minari id"),
        ("pointmaze-open", {"dataset_id": "mine/maze"}, "is no Minari id"),
        ("pointmaze-open", {"maze_map": LOOP}, "another name"),
    ],
)
def test_bad_requests_are_refused(
    minari_root: Path, name: str, arguments: dict[str, object], message: str
) -> None:
    settings = {"steps": 10, "seed": 0, **arguments}
    with pytest.raises(DiffplanError, match=message):
        make_pointmaze(name, progress=False, **settings)  # type: ignore[arg-type]
    assert not list(minari_root.iterdir())


def test_making_environments_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    info = DatasetInfo("x", "arrays", "PointMaze_UMaze-v3", {}, (-1.0,) * 2, (1.0,) * 2, {})
    env = make_env(info)
    env.reset(seed=0)
    env.close()
    assert list(tmp_path.rglob("*.xml")) == []
